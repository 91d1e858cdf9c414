//! Tests of the schema and of every rule file: what it says about changes to a healthy host, and that losing a fact never turns
//! a pass into a failure or back.

use super::judge::Verdict;
use super::load::{RuleTest, faults, parse};
use super::*;
use crate::facts::Facts;
use schemars::generate::SchemaSettings;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

const SCHEMA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/facts/schema.json");

static SCHEMA: LazyLock<Json> = LazyLock::new(|| serde_json::from_str(include_str!("../facts/schema.json")).unwrap());
static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| jsonschema::validator_for(&SCHEMA).unwrap());

/// A freshly installed RabbitMQ 4.0.5 on mq1 (10.0.0.5) with one application user.
const HEALTHY: &str = include_str!("healthy.json");

/// The committed schema is what the structs say. `UPDATE=1 cargo test` writes it.
#[test]
fn schema_is_current() {
    let schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Facts>();
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(SCHEMA_FILE, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(SCHEMA_FILE).unwrap(), text, "run UPDATE=1 cargo test schema_is_current");
}

#[test]
fn the_healthy_host_is_described_completely() {
    let faults = against_schema(&healthy());
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_healthy_host_has_no_errors_and_no_warnings() {
    let input = Input::from_json(healthy());
    for (file, rule) in rules() {
        match judge(&rule, &input) {
            Verdict::Fail(hits) => {
                for hit in hits {
                    assert_eq!(hit.severity, Severity::Note, "{file}: {}", hit.message);
                }
            }
            Verdict::Pass | Verdict::NotApplicable(_) => {}
            other => panic!("{file}: {other:?}"),
        }
    }
}

/// Nothing is known: no rule may pass or fail.
#[test]
fn nothing_known_is_unknown() {
    let mut facts = healthy();
    facts.as_object_mut().unwrap().values_mut().for_each(|area| *area = json!({"$unknown": "not root"}));
    let input = Input::from_json(facts);
    for (file, rule) in rules() {
        let verdict = judge(&rule, &input);
        assert_eq!(verdict, Verdict::Unknown(vec!["not root".to_owned()]), "{file}");
    }
}

#[test]
fn expressions_are_right() {
    let found: Vec<String> = rules().iter().flat_map(|(file, rule)| faults(rule, file)).map(|f| f.to_string()).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn builtin_rules_are_all_files() {
    assert_eq!(builtin().unwrap().rules.len(), rules().len());
}

#[test]
fn wording() {
    for (file, rule) in rules() {
        assert!(rule.title.chars().count() <= 60, "{file}: the title is longer than 60 characters");
        assert!(!rule.title.ends_with('.'), "{file}: the title ends with a period");
        assert!(rule.message.holes().next().is_some(), "{file}: the message shows no observed value");
        assert!(rule.why.trim().len() >= 40, "{file}: `why` says too little");
        assert!(rule.references.iter().all(|r| r.starts_with("https://")), "{file}: references are https");
        assert!(!rule.fixes.is_empty(), "{file}: no fix; say `none` with advice in `note`");
        for fix in &rule.fixes {
            assert!(fix.action != "none" || fix.note.is_some(), "{file}: `none` needs advice in `note`");
            assert!(fix.action != "none" || fix.tier == crate::rules::Tier::Manual, "{file}: `none` is manual");
        }
        assert!(rule.fixes.iter().rev().skip(1).all(|f| f.when.is_some()), "{file}: only the last fix may do without `when`");
    }
}

#[test]
fn explains_names_rules_without_a_cycle() {
    let set = builtin().unwrap();
    for rule in set.rules.values() {
        for name in &rule.explains {
            assert!(set.rules.contains_key(name), "{} explains `{name}`, which is no rule", rule.name);
        }
        let (mut seen, mut todo) = (BTreeSet::new(), rule.explains.clone());
        while let Some(name) = todo.pop() {
            assert_ne!(name, rule.name, "{} explains itself", rule.name);
            if seen.insert(name.clone()) {
                todo.extend(set.rules[&name].explains.clone());
            }
        }
    }
}

#[test]
fn every_rule_has_a_test_that_fails_and_one_that_does_not() {
    for (file, rule) in rules() {
        let expects: Vec<&str> = rule.tests.iter().map(|t| t.expect.as_str()).collect();
        assert!(expects.contains(&"fail"), "{file}: no test expects `fail`");
        let healthy = name_of(&judge(&rule, &Input::from_json(healthy())));
        assert!(healthy == "pass" || expects.contains(&"pass"), "{file}: nothing shows that it can pass");
    }
}

#[test]
fn rule_tests() {
    let mut wrong = Vec::new();
    for (file, rule) in rules() {
        for test in &rule.tests {
            wrong.extend(against_schema(&known(test)).into_iter().map(|f| format!("{file}: {}: no such facts: {f}", test.name)));
            let verdict = judge(&rule, &Input::from_json(changed(test)));
            if name_of(&verdict) != test.expect {
                wrong.push(format!("{file}: {}: expected {}, got {verdict:?}", test.name, test.expect));
            }
            let Verdict::Fail(hits) = &verdict else { continue };
            let hit = &hits[0];
            for text in &test.message {
                if !hit.message.contains(text) {
                    wrong.push(format!("{file}: {}: `{text}` is not in `{}`", test.name, hit.message));
                }
            }
            if let Some(action) = &test.fix
                && hit.fix.as_ref().map(|f| &f.action) != Some(action)
            {
                wrong.push(format!("{file}: {}: the fix is {:?}", test.name, hit.fix));
            }
            wrong.extend(
                hits.iter().filter(|h| h.message.contains("(unknown)")).map(|h| format!("{file}: {}: {}", test.name, h.message)),
            );
            if rule.at.is_some() && hit.at.is_none() && test.message.iter().any(|t| t.contains("/etc/")) {
                wrong.push(format!("{file}: {}: the hit has no place", test.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// For every test of every rule: take away each fact that the rule reads, one at a time, also inside lists. The verdict may become
/// unknown; it may not change sides.
#[test]
fn losing_a_fact_never_flips_a_verdict() {
    let mut tried = 0;
    for (file, rule) in rules() {
        let reads = reads(&rule);
        for test in &rule.tests {
            let mut facts = changed(test);
            // Also shows that `reads` leaves nothing out.
            facts.as_object_mut().unwrap().retain(|area, _| reads.iter().any(|r| r.0[0] == *area));
            let before = name_of(&judge(&rule, &Input::from_json(facts.clone())));
            assert_eq!(before, test.expect, "{file}: {}: more is read than known", test.name);
            for path in places(&facts).into_iter().filter(|p| reads.iter().any(|r| p.covers(r))) {
                let mut less = facts.clone();
                *at(&mut less, &path) = json!({"$unknown": "taken away"});
                let after = judge(&rule, &Input::from_json(less));
                let flips = matches!((before, name_of(&after)), ("pass", "fail") | ("fail", "pass") | (_, "broken"));
                assert!(!flips, "{file}: {}: losing {path} turns {before} into {after:?}", test.name);
                if let Verdict::Unknown(reasons) = &after {
                    assert!(
                        reasons.contains(&"taken away".to_owned()) || before == "unknown",
                        "{file}: {}: losing {path}: {reasons:?}",
                        test.name
                    );
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "only {tried} facts were taken away");
}

fn healthy() -> Json {
    serde_json::from_str(HEALTHY).unwrap()
}

/// Every rule file with its path.
fn rules() -> Vec<(String, Rule)> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rules"));
    let mut files: Vec<PathBuf> = entries(&root).iter().filter(|area| area.is_dir()).flat_map(|area| entries(area)).collect();
    files.sort();
    let read = |path: PathBuf| {
        let area = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let file = format!("rules/{area}/{}", path.file_name().unwrap().to_string_lossy());
        let rule = parse(&file, &area, &std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        (file, rule)
    };
    files.into_iter().map(read).collect()
}

fn entries(dir: &std::path::Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

fn name_of(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail(_) => "fail",
        Verdict::Unknown(_) => "unknown",
        Verdict::NotApplicable(_) => "not-applicable",
        Verdict::Broken(_) => "broken",
    }
}

/// The facts of a test.
fn changed(test: &RuleTest) -> Json {
    let mut facts = known(test);
    for path in &test.unknown {
        *at(&mut facts, &path_of(path)) = json!({"$unknown": "the test says so"});
    }
    facts
}

/// The facts of a test before some are made unknown. Tables are merged; a table merged into a list names elements by index; a
/// list replaces a list.
fn known(test: &RuleTest) -> Json {
    let mut facts = healthy();
    merge(&mut facts, &test.set);
    complete(&mut facts, &SCHEMA, &SCHEMA["$defs"]);
    for path in &test.null {
        *at(&mut facts, &path_of(path)) = Json::Null;
    }
    facts
}

fn merge(into: &mut Json, from: &Json) {
    match (into, from) {
        (Json::Object(into), Json::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Json::Null), value);
            }
        }
        (Json::Array(into), Json::Object(from)) => {
            for (index, value) in from {
                merge(&mut into[index.parse::<usize>().unwrap()], value);
            }
        }
        (_, Json::Null) => {}
        (into, from) => *into = from.clone(),
    }
}

/// Fills in what a test left out of an object: null, false, 0 and empty lists and texts.
fn complete(value: &mut Json, schema: &Json, defs: &Json) {
    let schema = resolve(schema, defs);
    match value {
        Json::Object(fields) => {
            if let Some(properties) = schema["properties"].as_object() {
                for (name, property) in properties {
                    complete(fields.entry(name.clone()).or_insert_with(|| nothing(property, defs)), property, defs);
                }
            } else {
                fields.values_mut().for_each(|v| complete(v, &schema["additionalProperties"], defs));
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|v| complete(v, &schema["items"], defs)),
        _ => {}
    }
}

fn resolve<'a>(schema: &'a Json, defs: &'a Json) -> &'a Json {
    if let Some(target) = schema["$ref"].as_str() {
        return resolve(&defs[target.trim_start_matches("#/$defs/")], defs);
    }
    match schema["anyOf"].as_array() {
        Some(choices) => choices.iter().find(|c| c["type"] != "null").map_or(schema, |c| resolve(c, defs)),
        None => schema,
    }
}

fn nothing(schema: &Json, defs: &Json) -> Json {
    if schema["anyOf"].is_array() || schema["type"].is_array() {
        return Json::Null;
    }
    match resolve(schema, defs)["type"].as_str() {
        Some("boolean") => json!(false),
        Some("integer") => json!(0),
        Some("string") => json!(""),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => Json::Null,
    }
}

/// What the schema does not allow.
fn against_schema(facts: &Json) -> Vec<String> {
    let mut found = Vec::new();
    strangers(facts, &SCHEMA, &SCHEMA["$defs"], String::new(), &mut found);
    found.extend(VALIDATOR.iter_errors(facts).map(|e| format!("{}: {e}", e.instance_path())));
    found
}

/// Members that the schema does not name: a typing error in a test.
fn strangers(value: &Json, schema: &Json, defs: &Json, path: String, found: &mut Vec<String>) {
    let schema = resolve(schema, defs);
    match value {
        Json::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                match (schema["properties"].get(name), schema.get("additionalProperties")) {
                    (Some(property), _) => strangers(field, property, defs, path, found),
                    (None, Some(property)) => strangers(field, property, defs, path, found),
                    (None, None) => found.push(path),
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|v| strangers(v, &schema["items"], defs, format!("{path}[]"), found)),
        _ => {}
    }
}

fn path_of(text: &str) -> input::Path {
    let text = text.replace('[', ".[");
    input::Path(text.split('.').map(str::to_owned).collect())
}

fn at<'a>(facts: &'a mut Json, path: &input::Path) -> &'a mut Json {
    path.0.iter().fold(facts, |value, segment| match segment.strip_prefix('[') {
        Some(index) => &mut value[index.trim_end_matches(']').parse::<usize>().unwrap()],
        None => &mut value[segment.as_str()],
    })
}

/// Every place in the facts.
fn places(facts: &Json) -> Vec<input::Path> {
    fn walk(value: &Json, path: &input::Path, all: &mut Vec<input::Path>) {
        let children: Vec<(String, &Json)> = match value {
            Json::Object(fields) if !fields.contains_key("$unknown") => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Json::Array(items) => items.iter().enumerate().map(|(i, v)| (format!("[{i}]"), v)).collect(),
            _ => Vec::new(),
        };
        for (segment, child) in children {
            let path = path.clone().then(segment);
            walk(child, &path, all);
            all.push(path);
        }
    }
    let mut all = Vec::new();
    walk(facts, &input::Path(Vec::new()), &mut all);
    all
}

/// The facts that a rule's conditions and words read.
fn reads(rule: &Rule) -> BTreeSet<input::Path> {
    let exprs = [&rule.when, &rule.each, &rule.fail, &rule.at, &rule.evidence].into_iter().flatten();
    let templates = [Some(&rule.message), rule.subject.as_ref()].into_iter().flatten();
    let fixes = rule.fixes.iter().flat_map(|f| f.with.values().chain(&f.note));
    let mut all: BTreeSet<_> = exprs
        .chain(rule.fixes.iter().filter_map(|f| f.when.as_ref()))
        .chain(rule.severity_when.iter().map(|(when, _)| when))
        .chain(templates.chain(fixes).flat_map(Template::holes))
        .flat_map(|e| check::reads_of(e, rule.each.as_ref()))
        .collect();
    if rule.versions.is_some() {
        all.extend([path_of("node.version"), path_of("install.version")]);
    }
    all
}

/// Rules may be loaded and compiled on one thread while another collects facts.
#[test]
fn rules_and_facts_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<RuleSet>();
    crosses::<Input>();
}

/// Codes of problems that stop the boot; other facts lead to the rules for those that are left out here (`address-not-local`,
/// `plugins-syntax`).
const FATAL: [&str; 12] = [
    "unknown-key",
    "bad-value",
    "syntax",
    "encoding",
    "unreadable",
    "overlap",
    "missing-file",
    "advanced-syntax",
    "encrypted-colon",
    "include-loop",
    "tls-without-certificate",
    "definitions-not-json",
];

#[test]
fn every_problem_that_stops_the_boot_has_a_rule() {
    let texts: Vec<String> = builtin().unwrap().rules.values().map(|rule| format!("{:?}", rule)).collect();
    for code in FATAL {
        assert!(texts.iter().any(|text| text.contains(&format!("'{code}'"))), "no rule speaks of {code}");
    }
}
