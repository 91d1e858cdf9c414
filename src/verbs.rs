//! The verbs of the command line: each turns arguments into text and an exit code (CONTRACT sections 1 and 2).

use crate::audit::{Audit, Selection, audit};
use crate::cli::{Cli, ColorWhen, Format, Global, Verb, WhyArgs};
use crate::facts::Fact;
use crate::host::capture::{Recorder, Replay};
use crate::host::live::Live;
use crate::host::terminal::{self, Stream};
use crate::host::tree::Tree;
use crate::host::{Host, write};
use crate::policy::{self, ClientIntent, Intent, IntentArgs};
use crate::render::term::{Environment, Term, Tone};
use crate::render::text::Detail;
use crate::render::why::Why;
use crate::render::{self, explain, text};
use crate::report::Report;
use crate::rules::{self, RuleSet};
use anyhow::{Context, anyhow, bail};
use clap::CommandFactory;
use std::path::Path;

mod init;
mod lint;
mod repair;
mod watch;

/// Exit codes of CONTRACT section 2.
pub const OK: u8 = 0;
pub const FINDINGS: u8 = 1;
pub const USAGE: u8 = 2;
pub const INCOMPLETE: u8 = 3;
pub const ROLLED_BACK: u8 = 4;
pub const NOT_ROLLED_BACK: u8 = 5;

/// What a verb leaves to be printed and returned.
pub struct Done {
    pub text: String,
    pub code: u8,
}

impl Done {
    fn ok(text: String) -> Self {
        Done { text, code: OK }
    }
}

static DEMO: include_dir::Dir = include_dir::include_dir!("$CARGO_MANIFEST_DIR/packaging/demo");

/// Runs what was asked for. An error is wrong usage, an unusable policy or an unusable input: exit code 2.
pub fn run(cli: &Cli) -> anyhow::Result<Done> {
    let global = &cli.global;
    if global.rabbitmq.is_some() && !matches!(cli.verb, Some(Verb::Lint { .. })) {
        bail!("--rabbitmq is for `lint`: everything else looks at the RabbitMQ that is installed");
    }
    match &cli.verb {
        None if cli.fix.fix => repair::fix(global, &cli.fix),
        None => whole_audit(global),
        Some(Verb::Why(args)) => why(global, args),
        Some(Verb::Lint { paths }) => lint::lint(global, paths),
        Some(Verb::Explain { rule }) => explain_rules(global, rule.as_deref()),
        Some(Verb::Undo { run }) => repair::undo(global, run.as_deref()),
        Some(Verb::Runs) => repair::runs(global),
        Some(Verb::Recover) => repair::recover(global),
        Some(Verb::Capture { dir }) => capture(global, dir),
        Some(Verb::Facts) => facts(global),
        Some(Verb::Init) => init::init(global),
        Some(Verb::Demo) => demo(global),
        Some(Verb::Completions { shell }) => Ok(Done::ok(completions(*shell))),
        Some(Verb::Man) => man().map(Done::ok),
    }
}

/// The host that the options name.
fn open_host(global: &Global) -> anyhow::Result<Box<dyn Host>> {
    Ok(match (&global.capture, &global.root) {
        (Some(dir), _) => Box::new(Replay::open(dir).map_err(|miss| anyhow!("{miss}"))?),
        (None, Some(dir)) => Box::new(Tree::open(dir).map_err(|miss| anyhow!("{miss}"))?),
        (None, None) => Box::new(Live::new(global.time_limit())),
    })
}

/// Rules that are compiled in, and those of the site.
fn load_rules(host: &dyn Host) -> anyhow::Result<RuleSet> {
    let mut set = rules::builtin()?;
    for (file, bytes) in policy::site_rules(host)? {
        set.add(rules::site(&file, &bytes).map_err(all)?, &file)?;
    }
    Ok(set)
}

/// All mistakes of a rule file, one a line.
fn all(errors: Vec<rules::LoadError>) -> anyhow::Error {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    anyhow!("{}", lines.join("; "))
}

fn load_intent(global: &Global, host: &dyn Host, rules: &RuleSet) -> anyhow::Result<Intent> {
    let names = rules.rules.keys().cloned().collect();
    // A policy that is named belongs to whoever runs this, not to the host of a capture.
    let live = Live::new(global.time_limit());
    let reader: &dyn Host = if global.policy.is_some() { &live } else { host };
    Ok(policy::load(reader, global.policy.as_deref(), &global.intent, &names)?)
}

fn selection(global: &Global, rules: &RuleSet) -> anyhow::Result<Selection> {
    let selection = Selection { only: global.only.clone(), skip: global.skip.clone() };
    if let Some(name) = selection.unknown_name(rules) {
        bail!("no rule and no area is called `{name}`; `rmq-audit explain` lists them");
    }
    Ok(selection)
}

fn whole_audit(global: &Global) -> anyhow::Result<Done> {
    let host = open_host(global)?;
    let rules = load_rules(host.as_ref())?;
    let intent = load_intent(global, host.as_ref(), &rules)?;
    let mut audit = audit(host.as_ref(), &intent, &rules, &selection(global, &rules)?);
    repair::offer(host.as_ref(), &mut audit, &intent);
    Ok(Done { text: print_report(global, &audit.report)?, code: exit_code(global, &audit) })
}

/// The report in the format that was asked for; to a file with `-o`.
fn print_report(global: &Global, report: &Report) -> anyhow::Result<String> {
    let rendered = match global.format {
        Format::Json => render::json(report)?,
        Format::Text => text::render(report, &term(global), detail(global)),
    };
    deliver(global, rendered)
}

/// Standard output, or the file of `-o`.
fn deliver(global: &Global, text: String) -> anyhow::Result<String> {
    match &global.output {
        None => Ok(text),
        Some(file) => {
            write::report_file(file, text.as_bytes()).with_context(|| format!("{}: cannot be written", file.display()))?;
            Ok(String::new())
        }
    }
}

fn detail(global: &Global) -> Detail {
    Detail { quiet: global.quiet, verbose: global.verbose > 0, after_fix: false }
}

/// How standard output wants its text.
fn term(global: &Global) -> Term {
    let to_file = global.output.is_some();
    let forced = match global.color {
        ColorWhen::Always => Some(true),
        ColorWhen::Never => Some(false),
        ColorWhen::Auto if to_file => Some(false),
        ColorWhen::Auto => None,
    };
    Term::new(forced, &environment(Stream::Out))
}

fn environment(stream: Stream) -> Environment {
    let is = |name: &str, value: &str| terminal::variable(name).as_deref() == Some(value);
    Environment {
        no_color: terminal::variable("NO_COLOR").is_some(),
        clicolor_force: terminal::variable("CLICOLOR_FORCE").is_some_and(|v| v != "0"),
        clicolor_off: is("CLICOLOR", "0"),
        dumb: is("TERM", "dumb"),
        utf8: terminal::is_utf8(),
        columns: terminal::columns(),
        is_terminal: terminal::is_terminal(stream),
    }
}

fn exit_code(global: &Global, audit: &Audit) -> u8 {
    let found = audit.report.findings.iter().any(|f| f.counts() && global.fail_on.includes(f.severity));
    // A tree without RabbitMQ has nothing that could have been checked.
    let nothing_there = audit.facts.os.offline && matches!(audit.facts.install, Fact::Known(None));
    match (found, audit.incomplete || nothing_there) {
        _ if global.exit_zero => OK,
        (true, _) => FINDINGS,
        (false, true) => INCOMPLETE,
        (false, false) => OK,
    }
}

fn why(global: &Global, args: &WhyArgs) -> anyhow::Result<Done> {
    let host = open_host(global)?;
    let rules = load_rules(host.as_ref())?;
    let mut intent = load_intent(global, host.as_ref(), &rules)?;
    intent.clients = vec![one_client(global, args)];
    let audit = audit(host.as_ref(), &intent, &rules, &Selection::default());
    let (Some(path), Some(client)) = (audit.report.paths.first(), audit.facts.clients.first()) else {
        bail!("the way of {} could not be evaluated", args.address);
    };
    let mut why = Why::new(path.clone(), client, &audit.facts);
    let name = audit.report.host.name.as_deref().unwrap_or("this host");
    let shown = |why: &Why| render::why::render(why, name, &term(global), global.verbose > 0);
    if args.watch {
        if global.capture.is_some() || global.root.is_some() {
            bail!("only the host itself can be watched, no capture and no file tree");
        }
        if global.format == Format::Text {
            crate::ask::tell(&format!("{}\n", shown(&why)));
        }
        let watched = watch::watch(global, host.as_ref(), &audit)?;
        let code = if global.exit_zero { OK } else { watch::code(&watched) };
        let summary = format!("\n{}", render::why::ended(&watched, &term(global)));
        why.watched = Some(watched);
        let text = if global.format == Format::Text { summary } else { render::json(&why)? };
        return Ok(Done { text: deliver(global, text)?, code });
    }
    let text = match global.format {
        Format::Json => render::json(&why)?,
        Format::Text => shown(&why),
    };
    let code = match why.path.state {
        _ if global.exit_zero => OK,
        crate::path::PathState::Blocked => FINDINGS,
        crate::path::PathState::Unknown if audit.incomplete => INCOMPLETE,
        _ => OK,
    };
    Ok(Done { text: deliver(global, text)?, code })
}

/// The client of `why`: its address, and what the options say beyond that.
fn one_client(global: &Global, args: &WhyArgs) -> ClientIntent {
    let options = &global.intent;
    let defaults = ClientIntent::default();
    ClientIntent {
        name: args.address.clone(),
        from: vec![args.address.clone()],
        service: options.service.clone().unwrap_or(defaults.service.clone()),
        port: options.port,
        user: options.user.clone(),
        password_file: options.password_file.clone(),
        vhost: options.vhost.clone().unwrap_or(defaults.vhost.clone()),
        assumed: false,
        to: args.to,
        interface: args.interface.clone(),
        ..defaults
    }
}

fn explain_rules(global: &Global, rule: Option<&str>) -> anyhow::Result<Done> {
    let host = open_host(global)?;
    let rules = load_rules(host.as_ref())?;
    let Some(name) = rule else {
        let all: Vec<_> = rules.rules.values().map(rules::explain).collect();
        return Ok(Done::ok(match global.format {
            Format::Json => render::json(&all)?,
            Format::Text => explain::list(&rules, &term(global)),
        }));
    };
    let Some(rule) = rules.rules.get(name) else {
        let near = explain::nearest(name, &rules).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
        bail!("no rule is called `{name}`{near}");
    };
    let explanation = rules::explain(rule);
    Ok(Done::ok(match global.format {
        Format::Json => render::json(&explanation)?,
        Format::Text => explain::rule(&explanation, &rules, &term(global)),
    }))
}

fn capture(global: &Global, dir: &Path) -> anyhow::Result<Done> {
    let host = open_host(global)?;
    let recorder = Recorder::new(host.as_ref());
    let rules = load_rules(&recorder)?;
    let intent = load_intent(global, &recorder, &rules)?;
    let audit = audit(&recorder, &intent, &rules, &Selection::default());
    // A replay plans repairs too: what the plan reads belongs into the capture.
    repair::planned(&recorder, &audit, &intent, &term(global))?;
    let count = recorder.save(dir).map_err(|miss| anyhow!("{miss}"))?;
    Ok(Done::ok(format!(
        "{count} answers of this host recorded in {}, secrets struck out.\nLook at it with: rmq-audit --capture {}\n",
        dir.display(),
        dir.display()
    )))
}

fn facts(global: &Global) -> anyhow::Result<Done> {
    let host = open_host(global)?;
    let rules = load_rules(host.as_ref())?;
    let intent = load_intent(global, host.as_ref(), &rules)?;
    let audit = audit(host.as_ref(), &intent, &rules, &Selection::default());
    Ok(Done::ok(deliver(global, render::json(&audit.facts)?)?))
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rmq-audit", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn man() -> anyhow::Result<String> {
    let mut out = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Who is to connect to the packed host, if the options do not say: the network of the client in its log.
const DEMO_CLIENTS: [&str; 4] = ["--from", "10.77.11.0/24", "--user", "app"];

/// Audits the packed capture, shows what `--fix` would do, and explains the first cause.
fn demo(global: &Global) -> anyhow::Result<Done> {
    let host = Replay::packed(&DEMO).map_err(|miss| anyhow!("{miss}"))?;
    let rules = rules::builtin()?;
    let names = rules.rules.keys().cloned().collect();
    let look = |args: &IntentArgs| -> anyhow::Result<(Audit, Intent)> {
        let intent = policy::load(&host, None, args, &names)?;
        let mut audit = audit(&host, &intent, &rules, &Selection::default());
        repair::offer(&host, &mut audit, &intent);
        Ok((audit, intent))
    };
    let (first, _) = look(&global.intent)?;
    if global.format == Format::Json {
        return Ok(Done::ok(deliver(global, render::json(&first.report)?)?));
    }
    let term = term(global);
    let shown = |words: &str| format!("\n{}\n", term.paint(Tone::Strong, &format!("$ {words}")));
    let mut out = String::from("A recorded host: RabbitMQ 4.0.5 on Debian 13, broken in four ways.\n");
    out.push_str(&shown("sudo rmq-audit"));
    out.push_str(&text::render(&first.report, &term, detail(global)));
    let said = !global.intent.from.is_empty() || global.intent.user.is_some();
    let (args, words) = if said { (global.intent.clone(), "…".to_owned()) } else { (demo_clients(), DEMO_CLIENTS.join(" ")) };
    let (mut second, intent) = look(&args)?;
    repair::only_wanted(&mut second, &rules, &Selection::default());
    out.push_str(&shown(&format!("sudo rmq-audit --fix --dry-run {words}")));
    out.push_str(&repair::planned(&host, &second, &intent, &term)?);
    if let Some(rule) = first.report.verdict.cause.as_ref().and_then(|c| rules.rules.get(c)) {
        out.push_str(&shown(&format!("rmq-audit explain {}", rule.name)));
        out.push_str(&explain::rule(&rules::explain(rule), &rules, &term));
    }
    Ok(Done::ok(deliver(global, out)?))
}

fn demo_clients() -> IntentArgs {
    let [_, from, _, user] = DEMO_CLIENTS;
    IntentArgs { from: vec![from.to_owned()], user: Some(user.to_owned()), ..IntentArgs::default() }
}
