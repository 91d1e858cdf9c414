//! Environment files to judge: one per trap, real ones, and random ones. The same seed gives the same cases.

use std::fs;
use std::path::Path;

use anyhow::Result;
use fastrand::Rng;

#[derive(Debug, Clone, Default)]
pub struct Case {
    pub name: String,
    pub content: Vec<u8>,
    /// The unit's environment.
    pub unit: Vec<(String, String)>,
    /// For the broker's user.
    pub unreadable: bool,
}

impl Case {
    fn new(name: String, content: impl Into<Vec<u8>>, unit: &[(&str, &str)]) -> Case {
        let unit = unit.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Case { name, content: content.into(), unit, unreadable: false }
    }

    /// Whether the file or the unit holds the variable's name.
    pub fn names(&self, name: &str) -> bool {
        let in_file = self.content.windows(name.len()).any(|w| w == name.as_bytes());
        in_file || self.unit.iter().any(|(n, _)| n.ends_with(name))
    }
}

pub fn all(random: usize, seed: u64) -> Result<Vec<Case>> {
    let mut all = vec![Case::new("baseline".into(), "", &[])];
    for (n, text) in TRAPS.iter().enumerate() {
        all.push(Case::new(format!("trap-{n:03}"), *text, &[]));
        if n % 4 == 0 {
            all.push(Case::new(format!("trap-{n:03}-unit"), *text, UNITS[n / 4 % UNITS.len()]));
        }
    }
    for (n, bytes) in BYTES.iter().enumerate() {
        all.push(Case::new(format!("bytes-{n:03}"), *bytes, &[]));
    }
    for (n, (text, unit)) in WITH_UNIT.iter().enumerate() {
        all.push(Case::new(format!("unit-{n:03}"), *text, unit));
    }
    all.push(Case { unreadable: true, ..Case::new("unreadable".into(), "NODE_PORT=5677\n", &[]) });
    let corpus = corpus()?;
    all.extend(corpus.iter().enumerate().map(|(n, content)| Case::new(format!("corpus-{n:03}"), content.clone(), &[])));
    let mut rng = Rng::with_seed(seed);
    for n in 0..random {
        let content = if n % 2 == 0 { composed(&mut rng) } else { mutated(&mut rng, &corpus) };
        let unit = if rng.bool() { UNITS[rng.usize(..UNITS.len())] } else { &[] };
        all.push(Case::new(format!("random-{n:05}"), content, unit));
    }
    Ok(all)
}

/// Real files, if they lie beside the project.
fn corpus() -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/rabbitmq-conf/env");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}

const UNITS: &[&[(&str, &str)]] = &[
    &[("RABBITMQ_NODE_PORT", "5688")],
    &[("NODE_PORT", "5689"), ("RABBITMQ_NODENAME", "unit@host")],
    &[("RABBITMQ_NODE_PORT", ""), ("NODE_IP_ADDRESS", "10.0.0.1")],
    &[("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+K true"), ("CTL_ERL_ARGS", "-x")],
    &[("RABBITMQ_PID_FILE", "/run/unit.pid"), ("ERL_MAX_PORTS", "1000")],
    &[("RABBITMQ_CONFIG_FILE", "/srv/unit"), ("ADVANCED_CONFIG_FILE", "/srv/adv"), ("RABBITMQ_ENABLED_PLUGINS", "")],
];

const WITH_UNIT: &[(&str, &[(&str, &str)])] = &[
    ("NODE_PORT=5677\n", &[("RABBITMQ_NODE_PORT", "5688")]),
    ("RABBITMQ_NODE_PORT=5677\n", &[("RABBITMQ_NODE_PORT", "5688")]),
    ("NODE_PORT=5677\n", &[("NODE_PORT", "5688")]),
    ("NODE_PORT=5677\n", &[("RABBITMQ_NODE_PORT", "")]),
    ("RABBITMQ_NODE_PORT=\nNODE_PORT=5677\n", &[("RABBITMQ_NODE_PORT", "5688")]),
    ("unset RABBITMQ_NODE_PORT\n", &[("RABBITMQ_NODE_PORT", "5688")]),
    ("unset RABBITMQ_NODE_PORT\nNODE_PORT=1\n", &[("RABBITMQ_NODE_PORT", "5688"), ("NODE_PORT", "5689")]),
    ("unset NODE_PORT\nexport NODE_PORT\n", &[("NODE_PORT", "5689")]),
    ("RABBITMQ_NODE_PORT=5677\nfalse && true\n", &[("RABBITMQ_NODE_PORT", "5688")]),
    ("NODE_PORT=5677\n[ -f /nowhere ] && X=1\n", &[("NODE_PORT", "5688")]),
    ("export NODE_PORT=5677\nfalse || false && true\n", &[]),
    ("PID_FILE=/a\n", &[("RABBITMQ_PID_FILE", "/unit")]),
    ("RABBITMQ_PID_FILE=/a\n", &[("RABBITMQ_PID_FILE", "/unit")]),
    ("RABBITMQ_PID_FILE=/a\n", &[("PID_FILE", "/unit")]),
    ("BOOT_MODULE=rabbit\n", &[("BOOT_MODULE", "other")]),
    ("SERVER_ERL_ARGS=+x\n", &[("SERVER_ERL_ARGS", "+y")]),
    ("ENABLED_PLUGINS=\n", &[("RABBITMQ_ENABLED_PLUGINS", "rabbitmq_top")]),
    ("RABBITMQ_ENABLED_PLUGINS=\n", &[("ENABLED_PLUGINS", "rabbitmq_top")]),
    ("ENABLED_PLUGINS=a\n", &[("RABBITMQ_ENABLED_PLUGINS", "")]),
    ("ERL_MAX_PORTS=5\nERL_EPMD_PORT=\nERL_MAX_ETS_TABLES=9\n", &[("ERL_MAX_PORTS", "4"), ("ERL_EPMD_PORT", "7")]),
    ("SYS_PREFIX=\nHOME=/x\n", &[("SYS_PREFIX", "/srv"), ("RABBITMQ_HOME", "/y")]),
];

/// One line of thought each.
const TRAPS: &[&str] = &[
    "NODE_PORT=5677\n",
    "NODE_PORT=5677",
    "RABBITMQ_NODE_PORT=5677\n",
    "NODE_PORT=1\nRABBITMQ_NODE_PORT=5678\n",
    "RABBITMQ_NODE_PORT=\nNODE_PORT=1\n",
    "NODE_PORT = 5677\n",
    "NODE_PORT =5677\n",
    "NODE_PORT= 5677\n",
    "A=1\nNODE_PORT = 5677\nB=2\n",
    "NODE_PORT=5677\r\nNODENAME=a@b\r\n",
    "CONFIG_FILE=/x\r\n",
    "CONFIG_FILE=/x\r\n\r\nLOG=debug\r\n",
    "# c\r\nLOG=debug\n",
    "if true; then\r\nLOG=a\r\nfi\r\n",
    "LOG='a b'\nLOG_BASE=\"c d\"\nLOGS=e\\ f\n",
    "LOG='it'\\''s'\nLOGS=\"say \\\"x\\\" \\$y \\a\"\n",
    "LOG=a'b'\"c\"d\\e\n",
    "LOG=\nLOGS=''\nLOG_BASE=\"\"\n",
    "LOG=a#b # c\n#LOG=x\n   # LOG=y\n",
    "LOG=a\\\nb\nNODE\\\nNAME=x\n",
    "LOG=\"a\\\nb\"\nLOGS='a\\\nb'\n",
    "LOG=\"a\nb\"\nLOGS='c\n+ d=e\nf'\n",
    "LOG=a;LOGS=b; LOG_BASE=c\n",
    "LOG=a LOGS=b\n",
    "LOG=a LOGS=$LOG\n",
    "LOG=$LOGS\nLOGS=x\n",
    "LOGS=x\nLOG=$LOGS\nLOG_BASE=${LOGS}y\nNODENAME=\"$LOGS z\"\n",
    "X=x\nLOG=${X:-d}\nLOGS=${Y:-d}\nLOG_BASE=${X-d}\n",
    "X=\nLOG=${X:-d}\nLOGS=${X-d}\n",
    "unset X\nLOG=${X:-d}\nLOGS=${X-e}f$X\n",
    ": ${LOG:=debug}\n",
    ": \"${LOG=debug}\"\nLOGS=a\n",
    "LOG=${LOGS:=b}\n",
    "LOG=${X:?no}\n",
    "LOG=${X?}\nLOGS=1\n",
    "LOG=${X}}\nLOGS=${X\n",
    "LOG=${1}\nLOGS=$1$@$#$?\n",
    "LOG=${#X}\nX=abc\nLOGS=${X%c}\nLOG_BASE=${X#a}\n",
    "LOG=${X/a/b}\n",
    "LOG=${!X}\n",
    "LOG=${X:0:2}\n",
    "LOG=$\nLOGS=\"$\"\nLOG_BASE=a$.b\n",
    "LOG=$(echo hi)\nLOGS=1\n",
    "LOG=`echo hi`\n",
    "LOGS=1\nLOG=$(false)\n",
    "LOGS=1\nLOG=\"$(true)\"\nLOG_BASE=2\n",
    "LOG=$(echo ')' \"(\" # )\n)\nLOGS=2\n",
    "LOG=$((1+2))\nLOGS=1\n",
    "LOG=$((1/0))\n",
    "LOG=$'a'\n",
    "LOG=$\"a\"\n",
    "LOG=\"$'a'\"\n",
    "LOG=~/x\nLOGS=a~\nLOG_BASE=a:~\nNODENAME='~'\n",
    "LOG=*\nLOGS=/*\nLOG_BASE={a,b}\n",
    "export LOG=debug\n",
    "export LOG=debug LOGS=b\n",
    "export LOG\nLOG=debug\n",
    "LOG=debug\nexport LOG\n",
    "export LOG LOGS\n",
    "export\n",
    "export -p\n",
    "export LOG = a\n",
    "export LOG=a b-c\n",
    "X='a b'\nexport LOG=$X\nexport LOGS=\"$X\"\n",
    "export LOG=~ LOGS=* LOG_BASE={a,b}\n",
    "readonly LOG=debug\n",
    "readonly LOG=debug\nLOG=x\n",
    "readonly SERVER_ERL_ARGS=x\n",
    "readonly SERVER_ADDITIONAL_ERL_ARGS=x\nreadonly _d=/x\n",
    "readonly RABBITMQ_SERVER_ERL_ARGS=\n",
    "readonly RABBITMQ_PID_FILE=/x\n",
    "readonly X\nLOG=1\n",
    "readonly LOG=debug LOG=x\n",
    "LOG=debug\nunset LOG\n",
    "unset LOG\n",
    "unset -v LOG; LOGS=a\n",
    "unset -f LOG\nLOGS=b\n",
    "export LOG=a\nunset LOG\nLOG=b\n",
    "LOG=a\n[ -f /nowhere ] && LOGS=b\n",
    "[ -f /nowhere ] && LOGS=b\nLOG=a\n",
    "LOG=a\n[ -f /nowhere ] && LOGS=b || true\n",
    "[ -d / ] && LOG=a\n",
    "[ -d / ] && { LOG=a; LOGS=b; }\n",
    "LOG=a\n[ -f /nowhere ] || LOG=b\n",
    "true && LOG=a\ntrue || LOG=b\nfalse || LOGS=c\nfalse && LOGS=d\nLOG_BASE=x\n",
    "LOG=a\nfalse\n",
    "false\nLOG=a\n",
    "LOG=a\nfalse || false\n",
    "! true\nLOG=a\n",
    "LOG=a\n! true\n",
    "LOG=a\ntrue\n:\n",
    "LOG=a\nno-such-command\n",
    "no-such-command || true\nLOG=a\n",
    "LOG=a\n/bin/true\n/bin/false || LOG=b\n",
    "if true; then LOG=a; fi\n",
    "if [ -d / ]; then LOG=a; else LOG=b; fi\nLOGS=c\n",
    "if false; then LOG=a; elif true; then LOG=b; else LOG=c; fi\n",
    "if [ -f /nowhere ]; then\n  LOG=a\nfi\nLOGS=c\n",
    "LOG=x\nif [ -f /nowhere ]; then LOG=a; fi\n",
    "if [ -f /nowhere ]; then LOG=a; false; fi\n",
    "if [ -d / ]; then LOG=a; false; fi\n",
    "if [ -d / ]; then if true; then LOG=a; fi fi\nLOGS=b\n",
    "if true; then LOG=a\n",
    "if true; LOG=a; fi\n",
    "fi\n",
    "LOG=a; }\n",
    "{ LOG=a; }\nLOGS=b\n",
    "{ LOG=a }\n",
    "( LOG=a )\nLOGS=b\n",
    "LOG=b\n( LOG=a; false )\n",
    "case x in x) LOG=a;; *) LOG=b;; esac\nLOGS=c\n",
    "case x in\n  (a|b) LOG=a ;;\n  *) LOG=b\nesac\n",
    "case x in esac\nLOG=1\n",
    "for LOG in a b; do LOGS=$LOG; done\nLOG_BASE=c\n",
    "for i in 1 2; do :; done\nLOG=a\n",
    "for 1 in a; do :; done\n",
    "while false; do LOG=a; done\nLOGS=b\n",
    "until true; do LOG=a; done\n",
    "f() { LOG=a; }\nLOGS=b\n",
    "f() { LOG=a; }\nf\nLOGS=b\n",
    "f () {\n  LOG=a\n}\nLOGS=f\n",
    "function f { LOG=a; }\nLOGS=b\n",
    "echo() { LOG=a; }\necho hi\n",
    "cat <<E\nLOG=a\nE\nLOGS=b\n",
    "cat <<-'E' >/dev/null\n\tLOG=a\n\tE\nLOGS=b\n",
    "LOG=a >/dev/null\nLOGS=b\n",
    "LOG=a 2>&1\n",
    "LOG=a >/nowhere/x\nLOGS=b\n",
    "echo hi >/dev/null\nLOG=a\n",
    "echo hi\nLOG=a\necho LOG=b\n",
    "LOG=a &\nLOGS=b\n",
    "LOG=a | cat\nLOGS=b\n",
    "echo x | read LOG\nLOGS=b\n",
    "read LOG </dev/null\nLOGS=b\n",
    "eval LOG=a\nLOGS=b\n",
    ". /dev/null\nLOG=a\n",
    "source /dev/null\nLOG=a\n",
    "exit 0\nLOG=a\n",
    "LOG=a\nreturn 0\nLOGS=b\n",
    "LOG=a\nreturn 1\n",
    "set -e\nLOG=a\n",
    "set -a\nLOG=a\nNODE_PORT=5677\nset +a\nLOGS=b\n",
    "set -a\nLOG=a\n",
    "set +e\nfalse\nLOG=a\n",
    "set -u\nLOG=a\n",
    "set +x\nLOG=a\n",
    "set -- a b\nLOG=$1\n",
    "shift\nLOG=a\n",
    "trap 'LOG=b' EXIT\nLOG=a\n",
    "alias LOG=x\nLOGS=a\n",
    "A+=x\nLOG=a\n",
    "LOG=a\nLOG+=b\n",
    "LOG=(a b)\nLOGS=c\n",
    "LOG[0]=a\n",
    "1LOG=a\n",
    "LOG-BASE=a\nLOGS=b\n",
    "export LOG+=a\n",
    "[[ -d / ]] && LOG=a\nLOGS=b\n",
    "if [[ -f /nowhere ]]; then LOG=a; fi\n",
    "LOG=\"a\nLOGS=b\n",
    "LOG='a\nLOGS=b\n",
    "LOG=`a\n",
    "LOG=$(a\n",
    "LOG=${a\n",
    "LOG=a\\",
    "LOG=\"a\\",
    "LOG=a;;\n",
    ";\nLOG=a\n",
    "LOG=a;\n;LOGS=b\n",
    "& LOG=a\n",
    "LOG=a &&\nLOGS=b\n",
    "LOG=a &&\n\n# c\nLOGS=b\n",
    "LOG=a ||\n",
    "LOG=a | \n",
    "LOG=a && && LOGS=b\n",
    "LOG=a)\n",
    "LOG=(\n",
    "SERVER_ERL_ARGS=+K true\n",
    "SERVER_ADDITIONAL_ERL_ARGS=+K +A 30\n",
    "SERVER_ADDITIONAL_ERL_ARGS=\"+K true\" # x\n",
    "SERVER_ADDITIONAL_ERL_ARGS='+A 30'\nSERVER_START_ARGS=\"-x 'y z'\"\nRABBITMQ_SERVER_ERL_ARGS=+z\n",
    "CTL_ERL_ARGS=a\nRABBITMQ_CTL_ERL_ARGS=\nCTL_DIST_PORT_MIN=40000\n",
    "MAX_NUMBER_OF_PROCESSES=1\nRABBITMQ_MAX_NUMBER_OF_ATOMS=2\nSCHEDULER_BIND_TYPE=u\nDISTRIBUTION_BUFFER_SIZE=\n",
    "IGNORE_SIGINT=false\n",
    "RABBITMQ_IGNORE_SIGINT=false\n",
    "ERL_MAX_PORTS=5\n",
    "export ERL_MAX_PORTS=5\nexport ERL_EPMD_ADDRESS=::1\n",
    "ERL_EPMD_PORT=4370\nERL_MAX_ETS_TABLES=7\n",
    "RABBITMQ_ERL_EPMD_PORT=4370\n",
    "LC_ALL=C true\nLOG=a\n",
    "LOG=a :\nLOGS=b\n",
    "LOG=a true\nLOGS=b\n",
    "LOG=a echo hi\n",
    "LOG=a export LOGS=b\n",
    "LOG=a ls /\nLOGS=b\n",
    "LOG= /etc/rabbitmq\n",
    "LOG= true\n",
    "LOG= true =5\ntrue = 5\n",
    "PATH=/nowhere\nLOG=a\n",
    "export PATH=$PATH:/x\nLOG=a\n",
    "IFS=,\nLOG=a\n",
    "PS4=x\nLOG=a\n",
    "CONF_ENV_FILE=/dev/null\nLOG=a\n",
    "export RABBITMQ_CONF_ENV_FILE=/dev/null\nLOG=a\n",
    "SYS_PREFIX=/x\nLOG=a\n",
    "export SYS_PREFIX=/x LOG=a\nCTL_ERL_ARGS=b\n",
    "RABBITMQ_HOME=/x\nLOG=a\n",
    "BOOT_MODULE=\nLOG=a\n",
    "RABBITMQ_BOOT_MODULE=x\nSASL_BOOT_FILE=\n",
    "RABBITMQ_ALLOW_INPUT=1\nLOG=a\n",
    "RABBITMQ_ENV_LOADED=1\nLOG=a\n",
    "NODE_PORT=abc\n",
    "NODE_PORT=99999\nDIST_PORT=-1\n",
    "DIST_PORT=x\n",
    "NODE_PORT='5677 '\n",
    "USE_LONGNAME=yes\nNODENAME=a@b.c\n",
    "LOG=debug,+color\nLOGS=-\n",
    "umask 027\nLOG=a\n",
    "ulimit -n 1024\nLOG=a\n",
    "ulimit -n 99999999\nLOG=a\n",
    "cd /\nLOG=$PWD\n",
    "test -d / && LOG=a\ntest -z \"$LOG\"\n",
    "[ \"$CONF_ENV_FILE_PHASE\" = rabbitmq-env ] && LOG=a\nLOGS=b\n",
    "if [ \"$CONF_ENV_FILE_PHASE\" = rabbitmq-env ]; then LOGS=b; fi\n",
    "CONFIG_FILE=$CONFIG_FILE.x\nMNESIA_BASE=$MNESIA_BASE/x\n",
    "LOG_BASE=$RABBITMQ_HOME/log\nHOME=/x\n",
    "printf x\nLOG=a\n",
    "printf 'x\\n'\nLOG=a\n",
    "LOG='-----BEGIN'\n",
    "LOG='=a=b'\nLOGS==\n",
    "LOG=a\tLOGS=b\n\tLOG_BASE=c\n",
    "time LOG=a\nLOGS=b\n",
    "in\n",
    "{\nLOG=a\n}\nLOGS=b\n",
    "if\ntrue\nthen\nLOG=a\nfi\n",
    "LOG=if\nLOGS=then; LOG_BASE=}\n",
    "echo if then fi { }\nLOG=a\n",
    "echo ;LOG=a\n",
    "export LOG=a;export LOGS=b\nexport LOG_BASE=c # d\n",
    "LOG=\"a'b\"'c\"d'\n",
    "LOG=\"${X:-a}\"b\nX=1\nLOGS=\"${X:-'q'}\"\n",
    "X=1\nLOG=${X:+y}\nLOGS=${X:-${Y}}\n",
    "LOG=a\\\tb\nLOGS=a\\\nLOG_BASE=c\n",
    "\\LOG=a\nLOGS=b\n",
    "'LOG=a'\nLOGS=b\n",
    "\"export\" LOG=a\nLOGS=b\n",
    "ex\\port LOG=a\n",
    "$X LOG=a\nLOGS=b\n",
    "command export LOG=a\nLOGS=b\n",
    "local LOG=a\n",
    "declare LOG=a\nLOGS=b\n",
    "let LOG=1\n",
    "2>/dev/null LOG=a\nLOGS=b\n",
    "LOG=a 3\nLOGS=2>/dev/null\n",
    "true&&LOG=a||LOG=b\n",
    "LOG=a&LOGS=b\n",
    "[ -f /nowhere ] && export LOG=a\nLOGS=b\n",
    "LOG=a\n[ -d / ] && export LOG\nLOGS=b\n",
    "LOG=a\n[ -f /nowhere ] && unset LOG\nLOGS=b\n",
];

/// What is not text.
const BYTES: &[&[u8]] = &[
    b"\xef\xbb\xbfNODE_PORT=5677\nLOG=a\n",
    b"\xef\xbb\xbf# c\nLOG=a\n",
    b"\xef\xbb\xbf\nLOG=a\n",
    b"LOG=a\0b\nLOGS=c\n",
    b"\0LOG=a\n",
    b"LOG=\xfc\nLOGS=c\n",
    b"# \xfc\nLOGS=c\n",
    b"X=\xfc\nLOGS=c\n",
    b"\xfc\nLOG=a\n",
    "LOG=ü€\u{81}\u{82}\u{85}\u{88}\nLOGS='ü'\nLOG_BASE=\"\\ü\"\n".as_bytes(),
    "NODENÄME=x\nLOG=b\n".as_bytes(),
    "LOG=a\u{a0}b\nLOGS=“x”\n".as_bytes(),
    b"LOG=a\x0bb\nLOGS=a\x0cb\n\x0b\n",
    b"LOG=a\x01b\x7f\x1b[0m\nLOGS=c\n",
    b"LOG=a\rLOGS=b\n",
    b"LOG=a\n\x1a",
    b"\n\n\n",
    b"#",
    b"\\",
    b"\\\n",
];

const NAMES: &[&str] = &["LOG", "RABBITMQ_LOG", "NODE_PORT", "RABBITMQ_NODE_PORT", "X", "SERVER_START_ARGS", "ERL_MAX_PORTS"];
const VALUES: &[&str] = &[
    "5677",
    "a",
    "''",
    "\"a b\"",
    "",
    "a\\ b",
    "$X",
    "${X}",
    "\"$LOG\"",
    "${X:-y}",
    "$(echo q)",
    "`echo q`",
    "~",
    "a~b",
    "'a\"b'",
    "\"a'b\"",
    "a#b",
    "$",
    "x=y",
    "a b",
    "*",
    "1 2",
    "\\",
    "'a\nb'",
    "${LOG-}",
    "\"\\$X\"",
    "a;b",
    "a&b",
    "\r",
];
const COMMANDS: &[&str] = &[
    "true",
    "false",
    "echo hi",
    ":",
    "[ -d / ]",
    "[ -f /nowhere ]",
    "no-such",
    "test -z \"$X\"",
    "unset LOG",
    "export LOG",
    "unset X",
    "readonly X",
    "set -a",
    "set +a",
    "umask 022",
    "return 0",
    "f",
    "exit 1",
    "NODE_PORT = 1",
    ": ${LOG:=z}",
    "# c",
    "",
];

/// A script of random commands.
fn composed(rng: &mut Rng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..rng.usize(1..7) {
        text += &statement(rng, 0);
        text += if rng.usize(..8) == 0 { "; " } else { "\n" };
    }
    text.into_bytes()
}

fn statement(rng: &mut Rng, depth: usize) -> String {
    let of = |rng: &mut Rng, list: &[&'static str]| list[rng.usize(..list.len())];
    if depth > 2 {
        return format!("{}={}", of(rng, NAMES), of(rng, VALUES));
    }
    let inner = |rng: &mut Rng| statement(rng, depth + 1);
    match rng.usize(..22) {
        0..=8 => format!("{}={}", of(rng, NAMES), of(rng, VALUES)),
        9 => format!("export {}={}", of(rng, NAMES), of(rng, VALUES)),
        10..=12 => of(rng, COMMANDS).to_owned(),
        13 => format!("if {}; then {}; fi", inner(rng), inner(rng)),
        14 => format!("if {}; then {}; else {}; fi", inner(rng), inner(rng), inner(rng)),
        15 => format!("{} && {}", inner(rng), inner(rng)),
        16 => format!("{} || {}", inner(rng), inner(rng)),
        17 => format!("{{ {}; {}; }}", inner(rng), inner(rng)),
        18 => format!("case a in {}) {};; esac", of(rng, &["a", "b", "*", "$X"]), inner(rng)),
        19 => format!("{}={} {}", of(rng, NAMES), of(rng, VALUES), of(rng, COMMANDS)),
        20 => format!("! {}", inner(rng)),
        _ => format!("( {} )", inner(rng)),
    }
}

const PIECES: &[&str] = &[
    " ", "\n", "\r", "\t", ";", "&", "|", "&&", "||", "(", ")", "<", "'", "\"", "\\", "\\\n", "$", "`", "#", "=", "~", "{", "}",
    "!", "if ", "then ", "fi", "$(", "${", "export ", "false\n", "LOG=", "X", "\u{fc}", "*", "[", "]", "%", ":",
];

/// A known script with a few changes.
fn mutated(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match rng.usize(..4) {
        0 if !corpus.is_empty() => without_comments(&corpus[rng.usize(..corpus.len())]),
        1 => composed(rng),
        _ => [TRAPS[rng.usize(..TRAPS.len())], TRAPS[rng.usize(..TRAPS.len())]].concat().into_bytes(),
    };
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..=bytes.len());
        match rng.usize(..3) {
            0 if at < bytes.len() => drop(bytes.remove(at)),
            1 => {
                let end = (at + rng.usize(..6)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                bytes.splice(to..to, part);
            }
            _ => drop(bytes.splice(at..at, PIECES[rng.usize(..PIECES.len())].bytes())),
        }
    }
    bytes
}

/// Prose is of no interest, and a change could bring it to life.
fn without_comments(bytes: &[u8]) -> Vec<u8> {
    bytes.split_inclusive(|b| *b == b'\n').filter(|line| !line.starts_with(b"#")).flatten().copied().collect()
}
