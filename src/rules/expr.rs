//! Expressions in CEL: compiled when first needed, evaluated to a value, an unknown or our own mistake.
//!
//! Three values come from CEL itself: an unknown fact is left out of the input, reading it is an error, and `&&`, `||`, `exists` and
//! `all` absorb an error where the other side decides. The tests of this module pin down every behaviour that is relied on.

use super::check;
use super::input::{Input, Path};
use cel::{Context, Env, ExecutionError, FunctionContext, Program, Value};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

/// Deepest nesting of brackets that is handed to the parser; it recurses, and its stack is finite.
const MAX_NESTING: usize = 24;
/// Longest expression, in bytes.
const MAX_LENGTH: usize = 2000;

/// An expression as it stands in a rule file.
#[derive(Debug)]
pub struct Expr {
    source: String,
    /// Where its first character stands in the file, both from 1.
    line: u32,
    column: u32,
    program: OnceLock<Result<Program, Fault>>,
}

/// What is wrong with an expression. The offset counts bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub offset: usize,
    pub message: String,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Facts that it needs are unknown; the reasons.
    Unknown(BTreeSet<String>),
    /// The expression is wrong: a fault of the rule.
    Broken(String),
}

/// What an expression sees: the facts, and inside `each` the element as `it`.
pub struct Scope<'a> {
    pub input: &'a Input,
    context: Context<'a, 'static>,
    /// The expression that `it` is an element of, and the element's path where it is known exactly.
    it: Option<(&'a Expr, Option<Path>)>,
}

impl<'a> Scope<'a> {
    pub fn new(input: &'a Input) -> Self {
        Scope { input, context: input.context.new_inner_scope(), it: None }
    }

    /// A scope in which `it` is element `index` of the list that `each` evaluated to.
    pub fn element(input: &'a Input, each: &'a Expr, index: usize, value: Value) -> Self {
        let mut context = input.context.new_inner_scope();
        context.add_variable_from_value("it", value);
        let path = each.plain_path().map(|p| p.then(format!("[{index}]")));
        Scope { input, context, it: Some((each, path)) }
    }
}

impl Expr {
    /// `line` and `column` say where the expression begins in its file.
    pub fn new(source: impl Into<String>, line: u32, column: u32) -> Self {
        Expr { source: source.into(), line, column, program: OnceLock::new() }
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Line and column in the file of a byte of the expression.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let before = self.source.get(..offset).unwrap_or(&self.source);
        let lines = before.matches('\n').count() as u32;
        let tail = before.rsplit('\n').next().unwrap_or(before).chars().count() as u32;
        if lines == 0 { (self.line, self.column + tail) } else { (self.line + lines, 1 + tail) }
    }

    /// The compiled form; the work is done once.
    pub fn program(&self) -> Result<&Program, &Fault> {
        self.program.get_or_init(|| compile(&self.source)).as_ref()
    }

    /// The value of the expression.
    pub fn eval(&self, scope: &Scope) -> Result<Value, Stop> {
        let program = self.program().map_err(|fault| Stop::Broken(format!("`{}`: {}", self.source, fault.message)))?;
        program.execute(&scope.context).map_err(|error| match error {
            ExecutionError::NoSuchKey(_) | ExecutionError::UndeclaredReference(_) => self.missing(scope, &error),
            other => Stop::Broken(format!("`{}`: {other}", self.source)),
        })
    }

    /// The value of a condition.
    pub fn holds(&self, scope: &Scope) -> Result<bool, Stop> {
        match self.eval(scope)? {
            Value::Bool(b) => Ok(b),
            other => Err(Stop::Broken(format!("`{}` is {other:?}, not true or false", self.source))),
        }
    }

    /// Something that the expression reads is not there: unknown, for the reasons of the facts that it reads, or no fact at all.
    fn missing(&self, scope: &Scope, error: &ExecutionError) -> Stop {
        let each = scope.it.as_ref().map(|(each, path)| (*each, path.clone()));
        let mut reads = check::reads(self, each.clone());
        let mut reasons = scope.input.reasons(|hole| reads.iter().any(|r| hole.covers(r)));
        if reasons.is_empty() {
            // `it` came out of a computation: its place in the facts is not known, only the area.
            reads.extend(each.map(|(each, _)| check::reads(each, None)).unwrap_or_default());
            reasons = scope.input.reasons(|hole| reads.iter().any(|r| r.0.first() == hole.0.first()));
        }
        if reasons.is_empty() { Stop::Broken(format!("`{}`: {error}", self.source)) } else { Stop::Unknown(reasons) }
    }

    /// `a.b.c` as a path, if the expression is nothing more than that.
    fn plain_path(&self) -> Option<Path> {
        let plain = self.source.split('.').all(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        plain.then(|| Path(self.source.split('.').map(str::to_owned).collect()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn compile(source: &str) -> Result<Program, Fault> {
    if source.len() > MAX_LENGTH {
        return Err(Fault { offset: MAX_LENGTH, message: format!("longer than {MAX_LENGTH} bytes; make it a fact") });
    }
    if let Some(offset) = too_deep(source) {
        return Err(Fault { offset, message: format!("more than {MAX_NESTING} nested brackets; make it a fact") });
    }
    Program::compile(source).map_err(|errors| {
        let first = errors.errors.first();
        let (line, column) = first.map_or((1, 1), |e| (e.pos.0.max(1) as usize, e.pos.1.max(1) as usize));
        let start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
        Fault { offset: start + column - 1, message: first.map_or_else(|| "not an expression".into(), |e| e.msg.clone()) }
    })
}

/// Where the nesting of brackets outside strings goes beyond [`MAX_NESTING`].
fn too_deep(source: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    for (offset, c) in source.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Some(offset);
                }
            }
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    None
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A context with the facts as variables and the functions that rules may call.
pub fn context(values: Vec<(String, Value)>) -> Context<'static, 'static> {
    let mut context = Context::with_env(ENV.clone());
    // Fails only where a name is taken by the standard library; the tests call each of them.
    let _ = context.add_function("get", get);
    let _ = context.add_function("first", first);
    let _ = context.add_function("seen", seen);
    let _ = context.add_function("size_text", size_text);
    let _ = context.add_function("span_text", span_text);
    for (name, value) in values {
        context.add_variable_from_value(name, value);
    }
    context
}

/// `get(map, key)`: the value, or null where the key is not set. A value that is unknown stays unknown.
fn get(ftx: &FunctionContext, map: Value, key: Arc<String>) -> Result<Value, ExecutionError> {
    let Value::Map(map) = map else {
        return Err(ftx.error("the first argument is not a map"));
    };
    if map.map.contains_key(&cel::objects::Key::from(super::input::unknown_marker(&key))) {
        return Err(ExecutionError::NoSuchKey(key));
    }
    Ok(map.map.get(&cel::objects::Key::from(key)).cloned().unwrap_or(Value::Null))
}

/// `first(list)`: its first element, or null.
fn first(ftx: &FunctionContext, list: Value) -> Result<Value, ExecutionError> {
    match list {
        Value::List(l) => Ok(l.first().cloned().unwrap_or(Value::Null)),
        _ => Err(ftx.error("not a list")),
    }
}

/// `seen(where, text)`: a quotation for `evidence`; `where` is a place in a file, the name of a source, or null.
fn seen(place: Value, text: Arc<String>) -> Value {
    let (source, line) = match &place {
        Value::Map(m) => {
            let field = |name: &str| m.map.get(&cel::objects::Key::from(name)).cloned().unwrap_or(Value::Null);
            (field("file"), field("line"))
        }
        Value::Null => (Value::from("-"), Value::Null),
        other => (other.clone(), Value::Null),
    };
    Value::from(HashMap::from([("source", source), ("line", line), ("text", Value::String(text))]))
}

/// `size_text(bytes)`: `48 MiB`.
fn size_text(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size < 10.0 && unit > 0 { format!("{size:.1} {}", UNITS[unit]) } else { format!("{size:.0} {}", UNITS[unit]) }
}

/// `span_text(seconds)`: `12 min`. Rough on purpose: it is read, not computed with.
fn span_text(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What this crate relies on in cel 0.15.0. A newer version that fails here is not a drop-in.
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn eval_in(facts: Json, source: &str) -> Result<Json, Stop> {
        let input = Input::from_json(facts);
        Expr::new(source, 1, 1).eval(&Scope::new(&input)).map(|v| super::super::template::json(&v))
    }

    fn eval(source: &str) -> Result<Json, Stop> {
        let facts = json!({
            "x": {"k": {"$unknown": "why"}, "known": 1, "none": null},
            "l": [{"k": {"$unknown": "why"}, "port": 5672}, {"k": 2, "port": 5671}],
            "m": {"a": 1, "u": {"$unknown": "why"}},
            "gone": {"$unknown": "why"},
        });
        eval_in(facts, source)
    }

    #[test]
    fn or_and_and_absorb_what_is_unknown() {
        for source in ["x.k == 1 || true", "true || x.k == 1", "gone || true", "!(x.k == 1 && false)", "!(false && x.k == 1)"] {
            assert_eq!(eval(source), Ok(json!(true)), "{source}");
        }
    }

    #[test]
    fn unknown_spreads_everywhere_else() {
        let unknown = Err(Stop::Unknown(BTreeSet::from(["why".to_owned()])));
        for source in [
            "x.k == 1 && true",
            "x.k == 1 || false",
            "!(x.k == 1)",
            "x.k in [1]",
            "x.k == 1 ? true : false",
            "gone",
            "gone.field == 1",
            "string(x.k)",
            "l.exists(e, e.k == 1)",
            "l.all(e, e.k == 2)",
            "l.filter(e, e.k == 2) == []",
            "l.map(e, e.k) == []",
            "get(m, 'u') == null",
            "[x.k] == []",
            "x.k == null",
            "first(l).k == 1",
        ] {
            assert_eq!(eval(source), unknown, "{source}");
        }
    }

    #[test]
    fn exists_and_all_absorb_what_is_unknown() {
        for source in ["l.exists(e, e.k == 1 || e.port == 5672)", "l.exists(e, e.k == 2)", "!l.all(e, e.k == 3)"] {
            assert_eq!(eval(source), Ok(json!(true)), "{source}");
        }
    }

    #[test]
    fn comparisons() {
        for source in [
            "x.none == null",
            "x.known != null",
            "x.none != 'a'",
            "x.known + 1 == 2",
            "l.map(e, e.port) == [5672, 5671]",
            "l != []",
            "get(m, 'b') == null",
            "get(m, 'a') == 1",
            "first([]) == null",
            "size(l) == 2",
            "size_text(50000000) == '48 MiB'",
            "size_text(0) == '0 B'",
            "span_text(600) == '10 min'",
            "-7 / 2 == -3",
        ] {
            assert_eq!(eval(source), Ok(json!(true)), "{source}");
        }
        assert_eq!(eval("seen(null, 'a').text"), Ok(json!("a")));
    }

    /// Reading a field of null is our mistake, not something unknown.
    #[test]
    fn mistakes_are_told_from_unknowns() {
        for source in
            ["x.none.field == 1", "x.known.field == 1", "x.known < 'a'", "l.port == 1", "1 +", "x.known && true", "nowhere == 1"]
        {
            assert!(matches!(eval(source), Err(Stop::Broken(_))), "{source}: {:?}", eval(source));
        }
    }

    #[test]
    fn nesting_is_limited_before_the_parser_sees_it() {
        let deep = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
        assert_eq!(eval(&deep(MAX_NESTING)), Ok(json!(true)));
        assert!(matches!(eval(&deep(MAX_NESTING + 1)), Err(Stop::Broken(why)) if why.contains("nested")));
        assert!(matches!(eval(&deep(100_000)), Err(Stop::Broken(_))));
        assert_eq!(eval(&format!("'{}' != ''", "(".repeat(100))), Ok(json!(true)));
    }

    #[test]
    fn positions_count_from_the_start_of_the_expression() {
        let expr = Expr::new("a &&\n  b", 4, 10);
        assert_eq!(expr.position(0), (4, 10));
        assert_eq!(expr.position(2), (4, 12));
        assert_eq!(expr.position(7), (5, 3));
    }

    #[test]
    fn only_reasons_of_facts_that_are_read_are_given() {
        let facts = json!({"install": {"$unknown": "denied"}, "unit": {"$unknown": "no systemctl"}});
        assert_eq!(eval_in(facts, "unit != null"), Err(Stop::Unknown(BTreeSet::from(["no systemctl".to_owned()]))));
    }
}
