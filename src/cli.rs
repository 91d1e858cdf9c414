//! The command line as data: parser, `--help`, man page and shell completions all come from here (CONTRACT section 1).

use crate::policy::{IntentArgs, check_source};
use crate::rules::Severity;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Says why clients cannot connect to this RabbitMQ host, and puts it right.
#[derive(Debug, Parser)]
#[command(name = "rmq-audit", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  sudo rmq-audit                              what is wrong here, root cause first
  sudo rmq-audit --fix                        repair it: diff, questions, one \"Do it?\"
  sudo rmq-audit --fix --dry-run              the plan only
  sudo rmq-audit --from 10.0.0.0/24 --user app --password-file F
                                              must this client be able to connect?
  sudo rmq-audit why 10.0.0.7                 the way of one client, stage by stage
  sudo rmq-audit why 10.0.0.7 --watch         let it try: where does it fail?
  sudo rmq-audit lint                         would RabbitMQ boot after a restart?
  rmq-audit lint --rabbitmq 4.1 deploy/       would a 4.1 boot with these files?
  sudo rmq-audit undo                         take the last fix run back
  sudo rmq-audit init                         say once who must be able to connect
  rmq-audit demo                              a broken host to look at; needs no root

Exit codes: 0 nothing found, 1 findings, 2 usage or policy wrong, 3 something that
matters could not be checked, 4 a fix failed and was rolled back, 5 the rollback
failed too, 130/143 interrupted.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(flatten)]
    pub fix: FixArgs,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Options of the repair.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Repair")]
pub struct FixArgs {
    /// Offer every repair: diff, apply/skip/explain/quit, one plan, one question
    #[arg(long)]
    pub fix: bool,
    /// Apply without asking: tier safe only, or safe and restart
    #[arg(long, value_name = "TIER", num_args = 0..=1, require_equals = true, default_missing_value = "safe", requires = "fix")]
    pub yes: Option<YesTier>,
    /// Show the plan (diffs, commands, effects) and change nothing
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
}

/// How far `--yes` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum YesTier {
    Safe,
    Restart,
}

/// Options that every verb understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    #[command(flatten)]
    pub intent: IntentArgs,
    /// Replay a capture instead of looking at this host
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath, conflicts_with = "root")]
    pub capture: Option<PathBuf>,
    /// Audit a mounted file tree (image build, pre-deploy): nothing runs there
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath)]
    pub root: Option<PathBuf>,
    /// Who must be able to connect [default: /etc/rmq-audit/policy.toml]
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// For `lint`: the RabbitMQ that the files are for [default: the one that is installed]
    #[arg(long, value_name = "VERSION", global = true)]
    pub rabbitmq: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub format: Format,
    /// Write the report to a file (mode 0600) instead of standard output
    #[arg(short, long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Findings of this severity and above make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Error, global = true)]
    pub fail_on: FailOn,
    /// Judge only these rules or areas (repeatable)
    #[arg(long, value_name = "RULE|AREA", global = true)]
    pub only: Vec<String>,
    /// Leave out these rules or areas (repeatable)
    #[arg(long, value_name = "RULE|AREA", global = true)]
    pub skip: Vec<String>,
    /// Exit 0 even with findings
    #[arg(long, global = true)]
    pub exit_zero: bool,
    /// When to use colour
    #[arg(long, value_enum, default_value_t = ColorWhen::Auto, global = true)]
    pub color: ColorWhen,
    /// Never ask anything
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Say nothing when there is nothing to say
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show passes, unknowns, and how each stage is known
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Seconds that one command, call or probe may take [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600), global = true)]
    pub timeout: Option<u64>,
}

impl Global {
    /// Time that one command, call or probe may take.
    pub fn time_limit(&self) -> Duration {
        self.timeout.map_or(COMMAND_TIMEOUT, Duration::from_secs)
    }
}

/// Where nothing else is said.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Verbs; without one the host is audited.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The way of one client to this broker, stage by stage
    Why(WhyArgs),
    /// Would RabbitMQ boot with these configuration files? Needs no broker
    ///
    /// Takes rabbitmq.conf, conf.d, advanced.config, rabbitmq.config, rabbitmq-env.conf and enabled_plugins. A directory stands
    /// for /etc/rabbitmq; files that are named are judged without their neighbours, those of one directory together. The schema is
    /// that of the RabbitMQ that is installed, or of the version that --rabbitmq names.
    Lint {
        /// Files and directories; `-`: a rabbitmq.conf on standard input [default: /etc/rabbitmq]
        #[arg(value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
    },
    /// What a rule checks, why, and how it is fixed; without RULE the list
    Explain {
        /// Name of a rule
        rule: Option<String>,
    },
    /// Take a fix run back
    Undo {
        /// Run id [default: the last one]
        run: Option<String>,
    },
    /// List the fix runs of this host
    Runs,
    /// Finish or roll back a run that was cut off
    Recover,
    /// Record what an audit reads into a new folder, secrets struck out
    Capture {
        /// Folder to create
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// The facts as JSON
    Facts,
    /// Ask a few questions and write /etc/rmq-audit/policy.toml: who must be able to connect
    ///
    /// Proposes what is seen on the host: who is connected, what listens, its networks, the cluster's other nodes. Shows the file before it
    /// writes it; what is in it already stays. Needs root and a terminal.
    Init,
    /// Audit a packed capture of a broken broker host; needs no root and no RabbitMQ
    Demo,
    /// Shell completions
    #[command(hide = true)]
    Completions {
        /// bash, zsh, fish, …
        shell: clap_complete::Shell,
    },
    /// The man page in roff
    #[command(hide = true)]
    Man,
}

/// Arguments of `why`.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// Source address of the client; a network (10.0.0.0/24), `any` or `local`
    #[arg(value_parser = source)]
    pub address: String,
    /// Address of this host that it uses [default: from the routes]
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<IpAddr>,
    /// Interface that its packets come in by [default: from the routes]
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Let the client try, and tell at which stage it fails [until Ctrl-C, or --timeout SECONDS]
    #[arg(long)]
    pub watch: bool,
}

fn source(text: &str) -> Result<String, String> {
    check_source(text).map(|()| text.to_owned())
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// `--fail-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    Error,
    Warning,
    Note,
}

impl FailOn {
    /// Whether a finding of this severity counts.
    pub fn includes(self, severity: Severity) -> bool {
        let limit = match self {
            FailOn::Error => Severity::Error,
            FailOn::Warning => Severity::Warning,
            FailOn::Note => Severity::Note,
        };
        severity <= limit
    }
}

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    Auto,
    Always,
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// `rmq-audit …` as it stands in a text: at the start of a line, after `sudo`, or in backquotes; up to a comment.
    fn command_lines(text: &str) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for line in text.lines() {
            let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
            let bare = line.trim().trim_start_matches("$ ").trim_start_matches("ansible.builtin.command: ");
            for code in quoted.into_iter().chain([bare]) {
                let code = code.trim().trim_start_matches("sudo ");
                let code = code.split(" #").next().unwrap_or(code).split("   ").next().unwrap_or(code);
                if code == "rmq-audit" || code.starts_with("rmq-audit ") {
                    found.push(code.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect());
                }
            }
        }
        found
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_line_that_is_documented_parses() {
        let help = Cli::command().render_long_help().to_string();
        let texts = [include_str!("../README.md"), include_str!("../packaging/policy.toml"), help.as_str()];
        let all: Vec<Vec<String>> = texts.iter().flat_map(|text| command_lines(text)).collect();
        assert!(all.len() > 15, "{all:?}");
        for words in all {
            // A line that only names a verb in prose may lack its argument.
            let outcome = Cli::try_parse_from(&words);
            if let Err(error) = outcome {
                assert!(error.kind() == clap::error::ErrorKind::MissingRequiredArgument, "{}: {error}", words.join(" "));
            }
        }
    }
}
