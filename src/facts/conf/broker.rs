//! Which RabbitMQ the files are for: the one that is installed, or a release whose schemas are packed.

use super::access::User;
use super::advanced;
use super::schemas::{self, Cuttlefish};
use crate::facts::Fact;
use crate::facts::os::Install;
use crate::facts::plugins::packages::{self, Package};
use crate::formats::erlang;
use crate::formats::rabbitmq_conf::Dialect;
use crate::formats::schema::Schema;
use crate::formats::schema::packed::Release;
use crate::host::Host;
use std::borrow::Cow;

/// A packed release, loaded.
#[derive(Debug, Clone)]
pub struct Packed {
    pub release: Release,
    pub schema: Schema,
    /// The plugins that it ships.
    pub plugins: Vec<String>,
}

impl From<Release> for Packed {
    fn from(release: Release) -> Self {
        let (schema, plugins) = release.load();
        Packed { release, schema, plugins }
    }
}

/// The broker that is to read the files.
#[derive(Debug, Clone, Copy)]
pub struct Broker<'a> {
    /// What is installed: whose user must be able to read certificates.
    pub install: &'a Fact<Option<Install>>,
    /// Takes the place of the installed schemas and plugins.
    pub packed: Option<&'a Packed>,
    /// The files are where the broker reads them, so their owner and mode count.
    pub in_place: bool,
}

impl<'a> Broker<'a> {
    /// The installed one, with its files in their place.
    pub fn installed(install: &'a Fact<Option<Install>>) -> Self {
        Broker { install, packed: None, in_place: true }
    }

    fn install(&self) -> Fact<&'a Install> {
        match self.install {
            Fact::Known(Some(install)) => Fact::Known(install),
            Fact::Known(None) => Fact::Unknown("RabbitMQ is not installed".into()),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        }
    }

    /// The user that it runs as.
    pub fn user(&self, host: &dyn Host) -> Fact<User> {
        match self.install() {
            Fact::Known(install) => User::of(host, install),
            Fact::Unknown(why) => Fact::Unknown(why),
        }
    }

    /// The user that must be able to read the files themselves.
    pub fn reader(&self, host: &dyn Host) -> Fact<User> {
        if self.in_place { self.user(host) } else { Fact::Unknown("the files are not where the broker reads them".into()) }
    }

    /// Applications of the installation.
    pub fn packages(&self, host: &dyn Host) -> Fact<Vec<Package>> {
        match self.install() {
            Fact::Known(install) => packages::list(host, &install.plugin_dirs).into(),
            Fact::Unknown(why) => Fact::Unknown(why),
        }
    }

    /// Major release of Erlang, where it is known.
    pub fn otp(&self) -> Option<u32> {
        let install = self.install.known().and_then(Option::as_ref).filter(|_| self.packed.is_none());
        install.and_then(|i| i.erlang.known()?.as_ref()?.parse().ok())
    }

    /// What reads rabbitmq.conf.
    pub fn parser(&self, host: &dyn Host) -> Parser<'a> {
        if let Some(packed) = self.packed {
            let (major, minor) = packed.release.cuttlefish;
            return Parser {
                packages: Fact::Known(Vec::new()),
                packed: Some(packed),
                version: Some(schemas::numbers(&packed.release.version)),
                cuttlefish: Some((major, minor)),
                dialect: Dialect::for_cuttlefish(major, minor),
                erlang: advanced::dialect(Some(schemas::numbers(&packed.release.version)), None),
            };
        }
        let packages = self.packages(host);
        let cuttlefish = packages.known().and_then(|p| schemas::cuttlefish(p));
        let install = self.install.known().and_then(Option::as_ref);
        let version = install.map(|install| schemas::numbers(&install.version));
        let dialect = install.map(|install| schemas::dialect(install, cuttlefish));
        // Without an installation the newest reader is the likeliest.
        let dialect = dialect.unwrap_or_else(|| Dialect::for_cuttlefish(3, 9));
        Parser { packages, packed: None, version, cuttlefish, dialect, erlang: advanced::dialect(version, self.otp()) }
    }
}

/// The parser of rabbitmq.conf and its schemas.
pub struct Parser<'a> {
    packages: Fact<Vec<Package>>,
    packed: Option<&'a Packed>,
    /// The version of RabbitMQ, where it is known.
    pub version: Option<(u32, u32, u32)>,
    pub cuttlefish: Option<Cuttlefish>,
    pub dialect: Dialect,
    /// The reader of advanced.config.
    pub erlang: erlang::Dialect,
}

impl<'a> Parser<'a> {
    /// Reads all schemas.
    pub fn schema(&self, host: &dyn Host) -> Fact<Cow<'a, Schema>> {
        match (self.packed, &self.packages) {
            (Some(packed), _) => Fact::Known(Cow::Borrowed(&packed.schema)),
            (None, Fact::Known(packages)) => schemas::load(host, packages, self.cuttlefish).map(Cow::Owned).into(),
            (None, Fact::Unknown(why)) => Fact::Unknown(why.clone()),
        }
    }
}
