//! ufw: its files against the kernel, and what its boot script makes of the files.
//!
//! The order of loading is that of `ufw_start` in /lib/ufw/ufw-init-functions.

use super::marks;
use super::{Drift, Shown};
use crate::facts::Where;
use crate::facts::firewall::model::{self, Chain, Engine, Family, Model, Table};
use crate::facts::firewall::{display, iptables, ufw::UserRule};
use crate::formats::iptables_save::{self, Save, Word};
use crate::host::{Got, Host, Miss, optional, read_text};
use std::collections::BTreeMap;
use std::path::Path;

const OWNER: &str = "ufw";
const CONF: &str = "/etc/ufw/ufw.conf";
const DEFAULTS: &str = "/etc/default/ufw";

/// ufw.conf and /etc/default/ufw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub enabled: bool,
    pub ipv6: bool,
    /// DROP | REJECT | ACCEPT
    pub input: String,
    pub output: String,
    pub forward: String,
    pub manage_builtins: bool,
    /// Where IPV6= stands.
    pub ipv6_at: Option<Where>,
}

/// `None`: ufw is not installed.
pub fn settings(host: &dyn Host) -> Got<Option<Settings>> {
    let Some(conf) = optional(read_text(host, CONF))? else { return Ok(None) };
    let defaults = optional(read_text(host, DEFAULTS))?.unwrap_or_default();
    let (conf_set, set) = (assignments(&conf), assignments(&defaults));
    // The boot script reads /etc/default/ufw first, then ufw.conf.
    let get = |name: &str| conf_set.get(name).or_else(|| set.get(name)).map(|(_, v)| v.as_str());
    let yes = |name: &str| get(name).is_some_and(|v| v.eq_ignore_ascii_case("yes"));
    let policy = |name: &str| get(name).unwrap_or("DROP").to_ascii_uppercase();
    let ipv6_at = set.get("IPV6").map(|(line, _)| Where { file: DEFAULTS.to_owned(), line: Some(*line), column: Some(1) });
    Ok(Some(Settings {
        enabled: yes("ENABLED"),
        ipv6: yes("IPV6"),
        input: policy("DEFAULT_INPUT_POLICY"),
        output: get("DEFAULT_OUTPUT_POLICY").unwrap_or("ACCEPT").to_ascii_uppercase(),
        forward: policy("DEFAULT_FORWARD_POLICY"),
        manage_builtins: yes("MANAGE_BUILTINS"),
        ipv6_at,
    }))
}

/// Shell assignments: name, line counted from 1, value.
pub fn assignments(text: &str) -> BTreeMap<String, (u32, String)> {
    let each = text.lines().zip(1..).filter_map(|(line, number)| {
        let (name, value) = line.trim().trim_start_matches("export ").split_once('=')?;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let value = value.split(" #").next().unwrap_or("").trim().trim_matches(['"', '\'']);
        plain.then(|| (name.to_owned(), (number, value.to_owned())))
    });
    each.collect()
}

/// The kernel's filter table of one family that holds ufw's chains, or would.
fn filter(model: &Model, v6: bool) -> Option<&Table> {
    let family = if v6 { Family::Ip6 } else { Family::Ip };
    let of_family = || model.tables.iter().filter(|t| t.family == family && t.name == "filter");
    of_family().find(|t| t.chain(&name(v6, "user-input")).is_some()).or_else(|| of_family().next())
}

fn name(v6: bool, rest: &str) -> String {
    format!("ufw{}-{rest}", if v6 { "6" } else { "" })
}

fn chain<'a>(table: &'a Table, name: &str) -> Option<&'a Chain> {
    table.chains.iter().find(|c| c.name == name)
}

/// Whether ufw filters: INPUT leads to its chains, and they are not empty.
pub fn loaded(model: &Model, v6: bool) -> bool {
    let Some(table) = filter(model, v6) else { return false };
    let before = name(v6, "before-input");
    let led = chain(table, "INPUT").is_some_and(|c| c.rules.iter().any(|r| marks::jump(r) == Some(&before)));
    led && chain(table, &before).is_some_and(|c| !c.rules.is_empty())
}

/// The six jumps of INPUT, in their order.
fn input_jumps(v6: bool) -> [String; 6] {
    ["before-logging-input", "before-input", "after-input", "after-logging-input", "reject-input", "track-input"]
        .map(|rest| name(v6, rest))
}

/// What differs between the kernel and ufw's files. Nothing is said of a ufw that is off.
pub fn drift(host: &dyn Host, model: &Model, settings: &Settings, rules: &Got<Vec<UserRule>>) -> Vec<Drift> {
    if !settings.enabled {
        return Vec::new();
    }
    let mut found = Vec::new();
    let families: &[bool] = if settings.ipv6 { &[false, true] } else { &[false] };
    for v6 in families.iter().copied().filter(|v6| readable(model, *v6)) {
        found.extend(family_drift(host, model, settings, v6));
    }
    if !settings.ipv6 {
        found.push(Drift {
            at: settings.ipv6_at.clone(),
            ..Drift::new(OWNER, "ipv6-off", "IPV6=no: ufw drops all IPv6 packets, replies too".to_owned())
        });
    }
    let limits = rules.iter().flatten().filter(|r| r.action == "limit" && !r.route && r.direction.starts_with("in"));
    for rule in limits {
        let file = if rule.v6 { "/etc/ufw/user6.rules" } else { "/etc/ufw/user.rules" };
        for (first, last) in ports(&rule.port) {
            let text = format!("limit {} {} from {}", rule.protocol, rule.port, rule.source);
            let shown = vec![Shown { at: file.to_owned(), text: text.clone() }];
            found.push(Drift { first_port: Some(first), last_port: Some(last), shown, ..Drift::new(OWNER, "limit", text) });
        }
    }
    found
}

fn readable(model: &Model, v6: bool) -> bool {
    model.unread.iter().all(|u| u.v6.is_some_and(|f| f != v6))
}

fn ports(text: &str) -> Vec<(i64, i64)> {
    if text == "any" {
        return vec![(1, 65535)];
    }
    let one = |part: &str| {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(one).collect()
}

fn family_drift(host: &dyn Host, model: &Model, settings: &Settings, v6: bool) -> Vec<Drift> {
    let tool = if v6 { "ip6tables" } else { "iptables" };
    let missing = || {
        let text = format!("ufw is enabled, but its {tool} chains are not in the kernel");
        vec![Drift::new(OWNER, "not-loaded", text)]
    };
    let Some(table) = filter(model, v6) else { return missing() };
    let Some(user) = chain(table, &name(v6, "user-input")) else { return missing() };
    let Some(input) = chain(table, "INPUT") else { return missing() };
    if !loaded(model, v6) {
        let closed = input.base.as_ref().is_some_and(|b| !b.accept);
        let rest = if closed { "and INPUT's policy drops everything" } else { "and nothing is filtered" };
        let shown = vec![Shown {
            at: format!("{} INPUT", table.title()),
            text: format!("{} rules, policy {}", input.rules.len(), if closed { "DROP" } else { "ACCEPT" }),
        }];
        let kind = if closed { "flushed-closed" } else { "flushed-open" };
        let text = format!("ufw's {tool} chains are empty or no longer reached, {rest}");
        return vec![Drift { shown, ..Drift::new(OWNER, kind, text) }];
    }
    let mut found = Vec::new();
    found.extend(foreign(table, input, v6));
    found.extend(missing_jumps(input, v6));
    found.extend(policy(table, input, settings));
    found.extend(user_rules(host, table, user, v6));
    found
}

/// Rules in INPUT that are neither ufw's nor made anew by running software: a reboot takes them away.
fn foreign(table: &Table, input: &Chain, v6: bool) -> Option<Drift> {
    let jumps = input_jumps(v6);
    let ours =
        |r: &model::Rule| marks::jump(r).is_some_and(|to| jumps.iter().any(|j| j == to) || marks::owner_of_chain(to).is_some());
    let first = input.rules.iter().position(|r| marks::jump(r).is_some_and(|to| jumps.iter().any(|j| j == to)))?;
    let others: Vec<&model::Rule> = input.rules.iter().take(first).filter(|r| !ours(r)).collect();
    if others.is_empty() {
        return None;
    }
    let at = format!("{} INPUT", table.title());
    let shown =
        others.iter().take(4).map(|r| Shown { at: at.clone(), text: display::words(table, input, r).into_owned() }).collect();
    let text =
        format!("{} in {at} before ufw's own; ufw does not know of them, and a reboot removes them", counted(others.len()));
    Some(Drift { shown, ..Drift::new(OWNER, "foreign-before", text) })
}

fn counted(rules: usize) -> String {
    if rules == 1 { "1 rule stands".to_owned() } else { format!("{rules} rules stand") }
}

fn missing_jumps(input: &Chain, v6: bool) -> Option<Drift> {
    let there: Vec<&str> = input.rules.iter().filter_map(marks::jump).collect();
    let wanted = input_jumps(v6);
    let order: Vec<Option<usize>> = wanted.iter().map(|w| there.iter().position(|t| t == w)).collect();
    let missing: Vec<&str> = wanted.iter().zip(&order).filter(|(_, at)| at.is_none()).map(|(w, _)| w.as_str()).collect();
    let sorted = order.iter().flatten().is_sorted();
    let text = match (missing.is_empty(), sorted) {
        (true, true) => return None,
        (false, _) => format!("INPUT does not lead to {}", missing.join(", ")),
        (true, false) => "INPUT leads to ufw's chains in another order than ufw's".to_owned(),
    };
    Some(Drift::new(OWNER, "rules-differ", text))
}

fn policy(table: &Table, input: &Chain, settings: &Settings) -> Option<Drift> {
    let accept = input.base.as_ref()?.accept;
    let wanted = settings.input == "ACCEPT";
    (accept != wanted).then(|| {
        let now = if accept { "ACCEPT" } else { "DROP" };
        let text = format!("policy of {} INPUT is {now}, {DEFAULTS} says DEFAULT_INPUT_POLICY={}", table.title(), settings.input);
        Drift::new(OWNER, "policy-differs", text)
    })
}

/// The kernel's ufw-user-input against user.rules, position by position.
fn user_rules(host: &dyn Host, table: &Table, user: &Chain, v6: bool) -> Option<Drift> {
    let path = if v6 { "/etc/ufw/user6.rules" } else { "/etc/ufw/user.rules" };
    let text = read_text(host, path).ok()?;
    let save = iptables_save::parse(&text).ok()?;
    let file = save.tables.iter().find(|t| t.name == "filter")?;
    let of_file = &file.chains.iter().find(|c| c.name == user.name)?.rules;
    let at = format!("{} {}", table.title(), user.name);
    let differ = |text: String, shown: Vec<Shown>| Some(Drift { shown, ..Drift::new(OWNER, "rules-differ", text) });
    for (index, (kernel, wanted)) in user.rules.iter().zip(of_file).enumerate() {
        // The kernel's rule in other words than iptables' cannot be compared.
        let printed = display::words(table, user, kernel);
        let words = printed.strip_prefix("-A ").and_then(|t| iptables_save::words(t).ok())?;
        if essence(words.get(1..).unwrap_or_default()) != essence(&save.words(wanted)) {
            let shown = vec![
                Shown { at: at.clone(), text: printed.clone().into_owned() },
                Shown { at: path.to_owned(), text: save.line(wanted).to_owned() },
            ];
            return differ(format!("rule {} of {at} is not the one in {path}", index + 1), shown);
        }
    }
    let (kernel, wanted) = (user.rules.len(), of_file.len());
    if kernel == wanted {
        return None;
    }
    let extra = user.rules.get(wanted).map(|r| Shown { at: at.clone(), text: display::words(table, user, r).into_owned() });
    let lacking = of_file.get(kernel).map(|r| Shown { at: path.to_owned(), text: save.line(r).to_owned() });
    let shown = extra.or(lacking).into_iter().collect();
    differ(format!("{at} holds {kernel} rules, {path} {wanted}"), shown)
}

/// What of a rule decides in ufw's own rules: addresses, ports, protocol, interfaces, target. Spelling differs between the file and
/// what iptables prints.
fn essence<'a>(words: &'a [Word]) -> BTreeMap<&'a str, String> {
    let mut found = BTreeMap::new();
    for (name, value) in words.iter().zip(words.iter().skip(1)) {
        let key = match &**name {
            "--source" => "-s",
            "--destination" => "-d",
            "-s" | "-d" | "-p" | "-i" | "-o" | "-j" | "--dport" | "--dports" | "--sport" | "--sports" => &**name,
            _ => continue,
        };
        let value = match key {
            "-s" | "-d" => match model::span(value) {
                Some((_, 0, last)) if last == model::low_bits(32) || last == u128::MAX => continue,
                Some((_, first, last)) => format!("{first}-{last}"),
                None => value.to_string(),
            },
            "-p" if &**value == "all" => continue,
            _ => value.to_string(),
        };
        found.insert(key, value);
    }
    found
}

/// The tables that the next boot makes.
pub fn boot(host: &dyn Host, settings: &Settings) -> Got<Vec<Table>> {
    for hook in ["/etc/ufw/before.init", "/etc/ufw/after.init"] {
        if host.stat(Path::new(hook), true).is_ok_and(|m| m.mode & 0o111 != 0) {
            return Err(Miss::failed(hook, "a script of this host's own runs while ufw starts"));
        }
    }
    let mut tables = iptables::tables(&family_boot(host, settings, false)?, Engine::IptablesNft, false);
    let v6 = if settings.ipv6 { family_boot(host, settings, true)? } else { closed()? };
    tables.extend(iptables::tables(&v6, Engine::IptablesNft, true));
    Ok(tables)
}

/// With IPV6=no.
fn closed() -> Got<Save> {
    let text = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\nCOMMIT\n";
    iptables_save::parse(text).map_err(|e| Miss::failed("ufw", e))
}

fn family_boot(host: &dyn Host, settings: &Settings, v6: bool) -> Got<Save> {
    let six = if v6 { "6" } else { "" };
    let mut kernel = Kernel::default();
    kernel.restore("ufw", &primary(v6))?;
    for (hook, policy) in [("input", &settings.input), ("output", &settings.output), ("forward", &settings.forward)] {
        match policy.as_str() {
            "REJECT" => kernel.restore("ufw", &format!("*filter\n-A ufw{six}-reject-{hook} -j REJECT\nCOMMIT\n"))?,
            "ACCEPT" => kernel.restore(
                "ufw",
                &format!(
                    "*filter\n-A ufw{six}-track-{hook} -p tcp -m conntrack --ctstate NEW -j ACCEPT\n-A ufw{six}-track-{hook} -p udp -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"
                ),
            )?,
            _ => {}
        }
    }
    kernel.restore("ufw", &secondary(six, settings))?;
    for file in ["before", "after", "user"] {
        let path = format!("/etc/ufw/{file}{six}.rules");
        kernel.restore(&path, &read_text(host, &path)?)?;
    }
    let hooks = ["input", "output", "forward"].map(|h| format!("-A ufw{six}-before-{h} -j ufw{six}-user-{h}\n")).concat();
    kernel.restore("ufw", &format!("*filter\n{hooks}COMMIT\n"))?;
    let verdict = |policy: &str| if policy == "ACCEPT" { "ACCEPT" } else { "DROP" };
    let (input, output) = (verdict(&settings.input), verdict(&settings.output));
    kernel.restore(
        "ufw",
        &format!(
            "*filter\n:INPUT {input} [0:0]\n:FORWARD {} [0:0]\n:OUTPUT {output} [0:0]\nCOMMIT\n",
            verdict(&settings.forward)
        ),
    )?;
    iptables_save::parse(&kernel.text()).map_err(|e| Miss::failed("ufw", e))
}

fn primary(v6: bool) -> String {
    let six = if v6 { "6" } else { "" };
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    let parts = ["before-logging", "before", "after", "after-logging", "reject", "track"];
    for hook in ["input", "output", "forward"] {
        text += &parts.map(|p| format!(":ufw{six}-{p}-{hook} - [0:0]\n")).concat();
        text += &parts.map(|p| format!("-A {} -j ufw{six}-{p}-{hook}\n", hook.to_uppercase())).concat();
    }
    text + "COMMIT\n"
}

fn secondary(six: &str, settings: &Settings) -> String {
    let mut text = format!("*filter\n:ufw{six}-logging-deny - [0:0]\n:ufw{six}-logging-allow - [0:0]\n");
    for (hook, policy) in [("input", &settings.input), ("output", &settings.output), ("forward", &settings.forward)] {
        text += &format!(":ufw{six}-skip-to-policy-{hook} - [0:0]\n-A ufw{six}-skip-to-policy-{hook} -j {policy}\n");
        text += &format!(":ufw{six}-user-{hook} - [0:0]\n:ufw{six}-user-logging-{hook} - [0:0]\n");
    }
    text + &format!(":ufw{six}-user-limit - [0:0]\n:ufw{six}-user-limit-accept - [0:0]\nCOMMIT\n")
}

/// What a row of `iptables-restore --noflush` leaves: a declared chain is emptied if it is not a built-in one, the rest is added.
#[derive(Default)]
struct Kernel {
    tables: Vec<(String, Vec<Lines>)>,
}

struct Lines {
    chain: String,
    policy: Option<String>,
    rules: Vec<String>,
}

impl Kernel {
    fn restore(&mut self, what: &str, text: &str) -> Got<()> {
        let mut table = None;
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            let refused = |why: &str| Miss::failed(format!("{what}:{number}"), why);
            match (line.chars().next(), table) {
                (None | Some('#'), _) => {}
                (Some('*'), None) => table = Some(self.table(line[1..].trim())),
                (_, Some(_)) if line == "COMMIT" => table = None,
                (Some(':'), Some(at)) => {
                    let mut words = line[1..].split_whitespace();
                    let chain = self.chain(at, words.next().unwrap_or(""));
                    match words.next() {
                        None | Some("-") => chain.rules.clear(),
                        policy => chain.policy = policy.map(str::to_owned),
                    }
                }
                (Some('-'), Some(at)) => {
                    let mut parts = line.splitn(3, char::is_whitespace);
                    match (parts.next(), parts.next(), parts.next()) {
                        (Some("-A" | "--append"), Some(chain), _) => self.chain(at, chain).rules.push(line.to_owned()),
                        // ufw writes `-I CHAIN RULE` for its log levels.
                        (Some("-I" | "--insert"), Some(chain), Some(rule)) if !rule.starts_with(|c: char| c.is_ascii_digit()) => {
                            self.chain(at, chain).rules.insert(0, format!("-A {chain} {rule}"));
                        }
                        _ => return Err(refused("a line that is not evaluated")),
                    }
                }
                _ => return Err(refused("not understood")),
            }
        }
        if table.is_some() {
            return Err(Miss::failed(what, "ends without COMMIT"));
        }
        Ok(())
    }

    fn table(&mut self, name: &str) -> usize {
        self.tables.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
            self.tables.push((name.to_owned(), Vec::new()));
            self.tables.len() - 1
        })
    }

    fn chain(&mut self, table: usize, name: &str) -> &mut Lines {
        let chains = &mut self.tables[table].1;
        let at = chains.iter().position(|c| c.chain == name).unwrap_or_else(|| {
            chains.push(Lines { chain: name.to_owned(), policy: None, rules: Vec::new() });
            chains.len() - 1
        });
        &mut chains[at]
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (table, chains) in &self.tables {
            text += &format!("*{table}\n");
            for chain in chains {
                text += &format!(":{} {} [0:0]\n", chain.chain, chain.policy.as_deref().unwrap_or("-"));
            }
            for rule in chains.iter().flat_map(|c| &c.rules) {
                text += rule;
                text.push('\n');
            }
            text += "COMMIT\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    const BEFORE: &str = "*filter\n:ufw-before-input - [0:0]\n:ufw-not-local - [0:0]\n-A ufw-before-input -i lo -j ACCEPT\n\
        -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n";
    const USER: &str = "*filter\n:ufw-user-input - [0:0]\n### RULES ###\n### tuple ### allow tcp 5672 0.0.0.0/0 any 10.0.0.0/24 in\n\
        -A ufw-user-input -p tcp --dport 5672 -s 10.0.0.0/24 -j ACCEPT\n### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n\
        -A ufw-user-input -p tcp --dport 22 -j ufw-user-limit-accept\n### END RULES ###\nCOMMIT\n";

    fn host() -> Fake {
        Fake::new()
            .file(CONF, "ENABLED=yes\n")
            .file(DEFAULTS, "IPV6=no\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\n")
            .file("/etc/ufw/before.rules", BEFORE)
            .file("/etc/ufw/after.rules", "*filter\n:ufw-after-input - [0:0]\nCOMMIT\n")
            .file("/etc/ufw/user.rules", USER)
    }

    fn booted() -> (Fake, Settings, Model) {
        let host = host();
        let settings = settings(&host).unwrap().unwrap();
        let tables = boot(&host, &settings).unwrap();
        (host, settings, Model { tables, ..Model::default() })
    }

    fn kinds(host: &Fake, model: &Model, settings: &Settings) -> Vec<String> {
        let rules = crate::facts::firewall::ufw::user_rules(host);
        drift(host, model, settings, &rules).into_iter().map(|d| d.kind).collect()
    }

    #[test]
    fn what_it_boots_is_what_its_files_say() {
        let (host, settings, model) = booted();
        assert!(loaded(&model, false));
        assert_eq!(kinds(&host, &model, &settings), ["ipv6-off", "limit"]);
        let input = chain(&model.tables[0], "INPUT").unwrap();
        assert!(!input.base.as_ref().unwrap().accept);
        let before = chain(&model.tables[0], "ufw-before-input").unwrap();
        assert_eq!(before.rules.last().map(|r| r.text.as_str()), Some("-A ufw-before-input -j ufw-user-input"));
        let six = model.tables.iter().find(|t| t.family == Family::Ip6).unwrap();
        assert!(!chain(six, "OUTPUT").unwrap().base.as_ref().unwrap().accept);
    }

    #[test]
    fn drift_is_seen() {
        let (host, settings, model) = booted();
        let changed = |change: &dyn Fn(&mut Table)| {
            let mut model = model.clone();
            change(&mut model.tables[0]);
            kinds(&host, &model, &settings)
        };
        let at = |t: &Table, name: &str| t.chain(name).unwrap();
        assert_eq!(changed(&|t| t.chains.clear())[0], "not-loaded");
        let flush = |t: &mut Table| t.chains.iter_mut().for_each(|c| c.rules.clear());
        assert_eq!(changed(&flush)[0], "flushed-closed");
        let open = |t: &mut Table| {
            flush(t);
            let input = at(t, "INPUT");
            t.chains[input].base.as_mut().unwrap().accept = true;
        };
        assert_eq!(changed(&open)[0], "flushed-open");
        let remove = |t: &mut Table| {
            let user = at(t, "ufw-user-input");
            t.chains[user].rules.remove(0);
        };
        assert_eq!(changed(&remove)[0], "rules-differ");
        let insert = |t: &mut Table| {
            let (user, input) = (at(t, "ufw-user-input"), at(t, "INPUT"));
            let rule = t.chains[user].rules[0].clone();
            t.chains[input].rules.insert(0, rule);
        };
        assert_eq!(changed(&insert)[0], "foreign-before");
        let ban = |t: &mut Table| {
            let input = at(t, "INPUT");
            let mut rule = t.chains[input].rules[0].clone();
            rule.steps = vec![model::Step::Go(model::Target::Jump("f2b-rabbitmq".to_owned()))];
            t.chains[input].rules.insert(0, rule);
        };
        assert_eq!(changed(&ban), ["ipv6-off", "limit"]);
    }

    #[test]
    fn spelling_is_no_difference() {
        let words = |text: &'static str| iptables_save::words(text).unwrap();
        let (file, kernel) = (
            words("-p tcp -m multiport --dports 5671,5672 -s 10.0.0.7/24 -d 0.0.0.0/0 -j ACCEPT -m comment --comment x"),
            words("-s 10.0.0.0/24 -p tcp -m multiport --dports 5671,5672 -j ACCEPT"),
        );
        assert_eq!(essence(&file), essence(&kernel));
        assert_ne!(essence(&words("-p tcp --dport 1 -j DROP")), essence(&words("-p tcp --dport 1 -j ACCEPT")));
    }

    #[test]
    fn inserted_lines_come_first() {
        let mut kernel = Kernel::default();
        kernel.restore("x", "*filter\n:a - [0:0]\n-A a -j DROP\n-I a -j RETURN\nCOMMIT\n").unwrap();
        assert_eq!(kernel.tables[0].1[0].rules, ["-A a -j RETURN", "-A a -j DROP"]);
        assert!(kernel.restore("x", "*filter\n-I a 2 -j DROP\nCOMMIT\n").is_err());
    }

    #[test]
    fn what_cannot_be_foretold_is_an_error() {
        let (_, settings, _) = booted();
        assert!(boot(&host().file_with("/etc/ufw/before.init", "", 0o755, 0, 0), &settings).is_err());
        assert!(boot(&host().denied("/etc/ufw/user.rules"), &settings).is_err());
        assert!(boot(&host().file("/etc/ufw/user.rules", "*filter\n"), &settings).is_err());
    }
}
