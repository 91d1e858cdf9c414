//! Files with settings that the broker passes over, and what it would do if it read them: what clients miss may be in one of them.

use super::{Conf, WantedListener, check_with};
use crate::facts::Fact;
use crate::facts::env::Env;
use crate::facts::net::Net;
use crate::facts::os::Install;
use crate::host::{Host, MAX_CONF};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One file that is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PassedOver {
    pub path: String,
    /// What has to be moved for it to be read: the file itself, or the one that hides it.
    pub moved: String,
    /// Where to.
    pub to: String,
    /// Would the broker boot then?
    pub boots: Fact<bool>,
    /// What it would listen on then.
    pub listeners: Fact<Vec<WantedListener>>,
}

/// Files that are looked at; each is a whole reading of the configuration.
const MAX: usize = 4;

/// What each file that is passed over would make of the broker.
pub fn derive(host: &dyn Host, install: &Fact<Option<Install>>, env: &Env, net: &Net, conf: &Conf) -> Fact<Vec<PassedOver>> {
    let (Fact::Known(files), Fact::Known(problems)) = (&conf.files, &conf.problems) else {
        return Fact::Unknown("the configuration files are not known".into());
    };
    let classic = files.iter().find(|f| f.used && f.format == "erlang" && f.path.ends_with(".config"));
    let hidden = files.iter().filter(|f| !f.used && f.format == "cuttlefish").filter_map(|f| {
        let hider = classic.filter(|hider| Path::new(&hider.path).with_extension("conf") == Path::new(&f.path))?;
        Some((f.path.clone(), hider.path.clone(), format!("{}.disabled", hider.path)))
    });
    let strays = problems.iter().filter(|p| p.code == "stray-file").filter_map(|p| {
        let to = p.suggestion.as_ref()?;
        Some((p.at.file.clone(), p.at.file.clone(), Path::new(&p.at.file).with_file_name(to).display().to_string()))
    });
    let look = |(path, moved, to): (String, String, String)| {
        let mut replaced: BTreeMap<PathBuf, Option<Vec<u8>>> = BTreeMap::from([(PathBuf::from(&moved), None)]);
        if path == moved {
            replaced.insert(PathBuf::from(&to), host.read(Path::new(&path), MAX_CONF).ok());
        }
        let then = check_with(host, install, env, net, replaced);
        PassedOver { path, moved, to, boots: then.boots, listeners: then.listeners }
    };
    Fact::Known(hidden.chain(strays).take(MAX).map(look).collect())
}
