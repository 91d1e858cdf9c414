//! The release of RabbitMQ that is installed: its support, its Erlang, and what an upgrade meets. What differs between releases is data, in
//! release.toml.

use super::os::{Install, Os};
use super::{Fact, Where};
use crate::host::{Got, Host, optional, read_text};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::LazyLock;

/// What is known about the installed release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Release {
    /// `4.0.5`
    pub version: String,
    /// `4.0`
    pub series: String,
    /// The day on which community support of the series ended or will end; null: not known here.
    pub community_until: Option<String>,
    /// Community support has ended.
    pub ended: bool,
    /// The distribution packages this very version, and with it, security fixes of its own: `debian 13`; null: it does not, or it is not
    /// known here.
    pub packaged_by: Option<String>,
    /// Erlang/OTP as its own file tells it (`27.3.4.1`), else the major release alone; null: none is installed.
    pub erlang: Fact<Option<String>>,
    /// The range that is supported with this release, and the version below which it does not boot; null: not known here.
    pub erlang_range: Option<ErlangRange>,
    /// fits | below-boot | below-supported | above-supported | not-known
    pub erlang_fit: Fact<String>,
    /// What the next release of the distribution brings; null: it is not known here.
    pub next: Option<Next>,
    /// The last upgrade of the package that dpkg's log knows of, in the newest two files; null: none.
    pub upgraded: Fact<Option<Upgraded>>,
}

/// Versions of Erlang/OTP that go with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErlangRange {
    /// Below it the boot stops.
    pub boots: String,
    pub min: String,
    /// The newest supported release: `27` is any 27.
    pub max: String,
}

/// The next release of the distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Next {
    /// `debian 13`
    pub distribution: String,
    /// The RabbitMQ that it brings.
    pub rabbitmq: String,
    /// RabbitMQ may go there from here in one step.
    pub direct: bool,
    /// Series to go through, the last one included: `3.11, 3.12, 3.13, 4.0`.
    pub path: String,
    /// Feature flags that it does not start without.
    pub required: Vec<String>,
}

/// One upgrade of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Upgraded {
    /// `3.10.8`
    pub from: String,
    pub to: String,
    /// As dpkg writes it, in local time.
    pub time: String,
    pub at: Where,
}

#[derive(Deserialize)]
struct Table {
    series: Vec<Series>,
    erlang: Vec<ErlangFrom>,
    distribution: Vec<Distribution>,
}

#[derive(Deserialize)]
struct Series {
    name: String,
    community_until: toml_edit::Datetime,
    upgrade_to: Vec<String>,
    /// Required from this series on.
    #[serde(default)]
    flags: Vec<String>,
    new_flags: Vec<String>,
}

#[derive(Deserialize)]
struct ErlangFrom {
    from: String,
    #[serde(flatten)]
    range: ErlangRange,
}

#[derive(Deserialize)]
struct Distribution {
    id: String,
    version: String,
    rabbitmq: String,
}

/// A table that does not parse knows nothing; a test sees to it that it does.
static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| toml_edit::de::from_str(include_str!("release.toml")).ok());

/// Where dpkg writes what it does, the newest first.
const DPKG_LOGS: [&str; 2] = ["/var/log/dpkg.log", "/var/log/dpkg.log.1"];
/// Bytes read from the end of each.
const TAIL: u64 = 512 * 1024;
/// Where Erlang/OTP's releases are.
const ERLANG: [&str; 2] = ["/usr/lib/erlang/releases", "/usr/lib64/erlang/releases"];

/// Looks the installed release up. Null: RabbitMQ is not installed.
pub fn collect(host: &dyn Host, os: &Os, install: &Fact<Option<Install>>) -> Fact<Option<Release>> {
    let install = match install {
        Fact::Known(Some(install)) => install,
        Fact::Known(None) => return Fact::Known(None),
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let version = install.version.clone();
    let series = series_of(&version);
    let until = known_series(&series).and_then(|s| s.community_until.date).map(|d| d.to_string());
    let erlang = erlang(host, install);
    let erlang_range = range_of(&version).cloned();
    Fact::Known(Some(Release {
        ended: until.as_deref().is_some_and(|until| today(os.now).as_str() > until),
        community_until: until,
        packaged_by: distribution(os).filter(|d| d.rabbitmq == version).map(Distribution::name),
        erlang_fit: erlang.as_ref().map(|e| fit(e.as_deref(), erlang_range.as_ref()).to_owned()),
        erlang,
        erlang_range,
        next: distribution(os).and_then(|d| next(d, &series)),
        upgraded: upgraded(host).into(),
        version,
        series,
    }))
}

/// `4.0.5` → `4.0`
pub fn series_of(version: &str) -> String {
    let mut parts = version.split('.');
    format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or("0"))
}

/// Feature flags of RabbitMQ itself without which a release of this series does not start on data that is there already.
pub fn required_flags(series: &str) -> Vec<String> {
    let upto = all_series().iter().filter(|s| order(&s.name, series) != Ordering::Greater);
    upto.flat_map(|s| s.flags.iter().cloned()).collect()
}

/// The oldest series that knows all of these flags: data is from it or from a later one. `None`: no flag of RabbitMQ itself is among them.
pub fn oldest_with(flags: &[String]) -> Option<&'static str> {
    let having = |s: &&Series| s.new_flags.iter().any(|flag| flags.contains(flag));
    all_series().iter().rev().find(having).map(|s| s.name.as_str())
}

/// The series on the shortest way of upgrades, the last one included; empty: there is none, or it is not known.
pub fn upgrade_path(from: &str, to: &str) -> Vec<String> {
    let mut queue = VecDeque::from([vec![from.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = queue.pop_front() {
        let Some(last) = way.last().filter(|last| seen.insert((*last).clone())) else { continue };
        if last == to {
            return way[1..].to_vec();
        }
        // The newest step first: it makes the way shortest, and an intermediate series the best kept one.
        for step in known_series(last).iter().flat_map(|s| s.upgrade_to.iter().rev()) {
            queue.push_back([way.clone(), vec![step.clone()]].concat());
        }
    }
    Vec::new()
}

fn all_series() -> &'static [Series] {
    TABLE.as_ref().map_or(&[], |table| &table.series)
}

fn known_series(name: &str) -> Option<&'static Series> {
    all_series().iter().find(|s| s.name == name)
}

/// Compares dotted numbers: `3.9` is older than `3.10`. What only one of them has counts as zero.
pub fn order(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>();
    let (a, b) = (numbers(a), numbers(b));
    let part = |all: &[u64], i: usize| all.get(i).copied().unwrap_or(0);
    let parts = (0..a.len().max(b.len())).map(|i| part(&a, i).cmp(&part(&b, i)));
    parts.fold(Ordering::Equal, Ordering::then)
}

fn today(now: i64) -> String {
    let time = jiff::Timestamp::from_second(now).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

fn range_of(version: &str) -> Option<&'static ErlangRange> {
    let lines = TABLE.as_ref()?.erlang.iter();
    let mut same = lines.filter(|line| series_of(&line.from) == series_of(version));
    same.rfind(|line| order(&line.from, version) != Ordering::Greater).map(|line| &line.range)
}

fn fit(erlang: Option<&str>, range: Option<&ErlangRange>) -> &'static str {
    let (Some(erlang), Some(range)) = (erlang, range) else { return "not-known" };
    // Where only the major release is known, its newest patch is meant: nothing is called too old on a guess.
    let bare = !erlang.contains('.');
    let below =
        |bound: &str| order(erlang, if bare { bound.split('.').next().unwrap_or(bound) } else { bound }) == Ordering::Less;
    // `27` as a bound is all of 27, `25.2` all of 25.2.
    let length = range.max.split('.').count();
    let cut = erlang.split('.').take(length).collect::<Vec<_>>().join(".");
    match () {
        () if below(&range.boots) => "below-boot",
        () if below(&range.min) => "below-supported",
        () if order(&cut, &range.max) == Ordering::Greater => "above-supported",
        () => "fits",
    }
}

fn erlang(host: &dyn Host, install: &Install) -> Fact<Option<String>> {
    let major = match &install.erlang {
        Fact::Known(Some(major)) => major,
        other => return other.clone(),
    };
    let told = ERLANG.iter().find_map(|dir| read_text(host, format!("{dir}/{major}/OTP_VERSION")).ok());
    let told = told.map(|text| text.trim().trim_end_matches("**").to_owned()).filter(|text| text.starts_with(major.as_str()));
    Fact::Known(Some(told.unwrap_or_else(|| major.clone())))
}

impl Distribution {
    fn name(&self) -> String {
        format!("{} {}", self.id, self.version)
    }
}

fn distribution(os: &Os) -> Option<&'static Distribution> {
    let (id, version) = (os.id.known()?.as_deref()?, os.version.known()?.as_deref()?);
    TABLE.as_ref()?.distribution.iter().find(|d| d.id == id && d.version == version)
}

/// Null where the host does not run its distribution's series: then the archive decides nothing.
fn next(here: &Distribution, series: &str) -> Option<Next> {
    let mut later = TABLE.as_ref()?.distribution.iter().skip_while(|d| !std::ptr::eq(*d, here)).skip(1);
    let next = later.find(|d| d.id == here.id).filter(|_| series_of(&here.rabbitmq) == series)?;
    let to = series_of(&next.rabbitmq);
    let path = upgrade_path(series, &to);
    Some(Next {
        distribution: next.name(),
        rabbitmq: next.rabbitmq.clone(),
        direct: path.len() <= 1,
        path: path.join(", "),
        required: required_flags(&to),
    })
}

/// The last `upgrade rabbitmq-server` of dpkg's log.
fn upgraded(host: &dyn Host) -> Got<Option<Upgraded>> {
    for file in DPKG_LOGS {
        let Some(tail) = optional(host.tail(Path::new(file), TAIL))? else { continue };
        let text = String::from_utf8_lossy(&tail.bytes);
        let found = text.lines().enumerate().filter_map(|(i, line)| upgrade(line).map(|u| (i, u))).last();
        if let Some((index, (time, from, to))) = found {
            let line = u32::try_from(index + 1).ok().filter(|_| !tail.cut);
            let at = Where { file: file.to_owned(), line, column: None };
            return Ok(Some(Upgraded { from: plain(from), to: plain(to), time: time.to_owned(), at }));
        }
    }
    Ok(None)
}

/// `2026-11-01 10:00:00 upgrade rabbitmq-server:all 3.10.8-1.1+deb12u1 4.0.5-1`
fn upgrade(line: &str) -> Option<(&str, &str, &str)> {
    let (time, rest) = line.split_once(" upgrade ")?;
    let mut words = rest.split(' ');
    let package = words.next()?;
    (package.split(':').next() == Some("rabbitmq-server")).then_some(())?;
    Some((time, words.next()?, words.next()?))
}

/// `1:3.10.8-1.1+deb12u1` → `3.10.8`
fn plain(version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(['-', '+', '~']).next().unwrap_or(version).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn look(host: Fake) -> Release {
        let os = super::super::os::collect(&host);
        collect(&host, &os, &super::super::os::collect_install(&host)).known().cloned().flatten().unwrap()
    }

    fn debian(version: &str, rabbitmq: &str, otp: &str) -> Fake {
        let major = otp.split('.').next().unwrap_or(otp).to_owned();
        Fake::new()
            .dir(format!("/usr/lib/rabbitmq/lib/rabbitmq_server-{rabbitmq}"), 0o755, 0, 0)
            .file("/etc/passwd", "")
            .file("/etc/group", "")
            .file("/etc/os-release", format!("ID=debian\nVERSION_ID=\"{version}\"\n"))
            .file(format!("/usr/lib/erlang/releases/{major}/OTP_VERSION"), format!("{otp}\n"))
    }

    #[test]
    fn the_table_is_read() {
        assert!(TABLE.as_ref().is_some_and(|t| t.series.len() == 10 && t.distribution.len() > 5));
        let known = |name: &String| known_series(name).is_some();
        assert!(all_series().iter().all(|s| s.upgrade_to.iter().all(known)));
    }

    #[test]
    fn flags_are_required_from_a_series_on() {
        assert!(required_flags("3.10").is_empty());
        assert_eq!(required_flags("3.11").len(), 5);
        assert!(required_flags("4.0").contains(&"classic_mirrored_queue_version".to_owned()));
        assert_eq!(required_flags("4.3"), required_flags("4.0"), "what 4.3 requires beyond is enabled by its boot");
    }

    #[test]
    fn the_way_goes_one_series_at_a_time() {
        assert_eq!(upgrade_path("3.10", "4.0"), ["3.11", "3.12", "3.13", "4.0"]);
        assert_eq!(upgrade_path("3.8", "3.12"), ["3.10", "3.11", "3.12"]);
        assert_eq!(upgrade_path("3.13", "4.2"), ["4.2"]);
        assert_eq!(upgrade_path("4.0", "4.3"), ["4.2", "4.3"]);
        assert!(upgrade_path("4.0", "3.13").is_empty());
        assert!(upgrade_path("4.0", "4.0").is_empty());
    }

    #[test]
    fn data_tells_from_which_series_it_is() {
        let flags = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(oldest_with(&flags(&["quorum_queue", "classic_mirrored_queue_version"])), Some("3.10"));
        assert_eq!(oldest_with(&flags(&["drop_unroutable_metric"])), None);
        assert_eq!(oldest_with(&[]), None);
    }

    #[test]
    fn a_distribution_fits_itself_and_its_next_release_may_not() {
        let twelve = look(debian("12", "3.10.8", "25.2.3"));
        assert_eq!((twelve.packaged_by.as_deref(), twelve.erlang_fit), (Some("debian 12"), Fact::Known("fits".into())));
        let next = twelve.next.unwrap();
        assert_eq!((next.distribution.as_str(), next.path.as_str()), ("debian 13", "3.11, 3.12, 3.13, 4.0"));
        assert!(!next.direct && twelve.ended);
        let upstream = look(debian("12", "4.2.9", "27.3"));
        assert_eq!((upstream.packaged_by, upstream.next), (None, None));
    }

    #[test]
    fn erlang_outside_of_the_range() {
        let fits = |rabbitmq: &str, otp: &str| look(debian("13", rabbitmq, otp)).erlang_fit.known().cloned().unwrap();
        assert_eq!(fits("4.0.5", "27.3.4.1"), "fits");
        assert_eq!(fits("4.0.3", "27.0"), "above-supported");
        assert_eq!(fits("4.0.5", "28.0.1"), "above-supported");
        assert_eq!(fits("3.13.7", "25.3"), "below-boot");
        assert_eq!(fits("4.0.5", "26.1"), "below-supported");
        assert_eq!(fits("4.2.9", "26.2.5"), "below-boot");
        assert_eq!(fits("3.12.14", "26.2.5.3"), "fits");
        assert_eq!(fits("5.1.0", "30.0"), "not-known");
        assert_eq!(fit(Some("26"), range_of("4.0.5")), "fits", "26.2 may be meant");
    }

    #[test]
    fn dpkg_tells_the_last_upgrade() {
        let log = "2026-11-01 09:00:00 upgrade rabbitmq-server:all 3.9.13-1 3.10.8-1.1\n\
                   2026-11-01 10:00:00 upgrade erlang-base:amd64 25 27\n\
                   2026-11-01 10:00:01 upgrade rabbitmq-server:all 3.10.8-1.1+deb12u1 4.0.5-1\n\
                   2026-11-01 10:00:02 status installed rabbitmq-server:all 4.0.5-1\n";
        let release = look(debian("13", "4.0.5", "27.3.4.1").file("/var/log/dpkg.log", log));
        let upgraded = release.upgraded.known().cloned().flatten().unwrap();
        assert_eq!((upgraded.from.as_str(), upgraded.to.as_str(), upgraded.at.line), ("3.10.8", "4.0.5", Some(3)));
        assert_eq!(look(debian("13", "4.0.5", "27")).upgraded, Fact::Known(None));
    }
}
