//! Looks through expressions without evaluating them: names that are no facts, comparisons that are always the same, values that
//! may be null, and constructs that would make an unknown look like a value. Also tells which facts an expression reads.

use super::expr::{Expr, Fault};
use super::input::Path;
use super::schema::{FACTS, Object, Type, quotation};
use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr as Ast, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators as op,
};
use std::collections::BTreeSet;

/// What an expression is, and the place in the facts that it came from.
#[derive(Debug, Clone)]
pub struct Typed {
    pub kind: Type,
    path: Option<Path>,
}

impl Typed {
    fn of(kind: Type) -> Self {
        Typed { kind, path: None }
    }

    /// What the elements of this list are.
    pub fn element(&self) -> Typed {
        let kind = match self.kind.present() {
            Type::List(t) => (**t).clone(),
            _ => Type::Any,
        };
        Typed { kind, path: self.path.clone().map(|p| p.then("[*]")) }
    }
}

/// What may be relied on when an expression is looked at: `it`, and conditions that are known to hold.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub it: Option<Typed>,
    /// Texts of expressions that are known not to be null.
    present: BTreeSet<String>,
}

impl Given {
    /// Also relies on `condition` being true.
    pub fn and(mut self, condition: &Expr) -> Self {
        if let Ok(program) = condition.program() {
            present_if(program.expression(), true, &mut self.present);
        }
        self
    }
}

/// The type of `expr`, or everything that is wrong with it.
pub fn check(expr: &Expr, given: &Given) -> Result<Typed, Vec<Fault>> {
    let program = expr.program().map_err(|f| vec![f.clone()])?;
    let mut walk = Walk::new(program.source_info(), given.clone());
    let typed = walk.visit(program.expression());
    if walk.faults.is_empty() { Ok(typed) } else { Err(walk.faults) }
}

/// The facts that `expr` reads. `it` is an element of the list of the expression given, at the path if that is known.
pub fn reads(expr: &Expr, it: Option<(&Expr, Option<Path>)>) -> BTreeSet<Path> {
    let it = it.map(|(each, path)| {
        let element = visit(each, &Given::default()).0.element();
        Typed { path: path.or(element.path), kind: element.kind }
    });
    visit(expr, &Given { it, ..Given::default() }).1
}

/// The facts that an expression inside `each` reads, `each` itself included.
#[cfg(test)]
pub fn reads_of(expr: &Expr, each: Option<&Expr>) -> BTreeSet<Path> {
    let mut all = reads(expr, each.map(|e| (e, None)));
    all.extend(each.map(|e| reads(e, None)).unwrap_or_default());
    all
}

fn visit(expr: &Expr, given: &Given) -> (Typed, BTreeSet<Path>) {
    let Ok(program) = expr.program() else {
        return (Typed::of(Type::Any), BTreeSet::new());
    };
    let mut walk = Walk::new(program.source_info(), given.clone());
    let typed = walk.visit(program.expression());
    (typed, walk.reads)
}

struct Walk<'a> {
    positions: &'a SourceInfo,
    /// Names bound by `it`, `exists(x, …)` and the like; later ones hide earlier ones.
    names: Vec<(String, Typed)>,
    present: BTreeSet<String>,
    reads: BTreeSet<Path>,
    faults: Vec<Fault>,
}

impl<'a> Walk<'a> {
    fn new(positions: &'a SourceInfo, given: Given) -> Self {
        let names = given.it.map(|it| ("it".to_owned(), it)).into_iter().collect();
        Walk { positions, names, present: given.present, reads: BTreeSet::new(), faults: Vec::new() }
    }

    fn fault(&mut self, at: &IdedExpr, message: impl Into<String>) -> Typed {
        let offset = self.positions.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        self.faults.push(Fault { offset, message: message.into() });
        Typed::of(Type::Any)
    }

    fn visit(&mut self, e: &IdedExpr) -> Typed {
        match &e.expr {
            Ast::Literal(literal) => Typed::of(match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::String(_) => Type::Text,
                LiteralValue::Null => Type::Null,
                _ => return self.fault(e, "only true/false, whole numbers, texts and null are facts"),
            }),
            Ast::Ident(name) => self.name(e, name),
            Ast::Select(select) => self.select(e, select),
            Ast::Call(call) => self.call(e, call),
            Ast::List(list) => {
                let kinds: Vec<Type> = list.elements.iter().map(|x| self.visit(x).kind).collect();
                Typed::of(Type::List(Box::new(kinds.first().cloned().unwrap_or(Type::Any))))
            }
            Ast::Comprehension(loop_) => self.comprehension(e, loop_),
            Ast::Map(_) | Ast::Struct(_) => self.fault(e, "rules make no objects"),
            Ast::Unspecified => self.fault(e, "not an expression"),
        }
    }

    fn name(&mut self, e: &IdedExpr, name: &str) -> Typed {
        if let Some((_, typed)) = self.names.iter().rev().find(|(n, _)| n == name) {
            let typed = typed.clone();
            self.reads.extend(typed.path.clone());
            return self.narrowed(e, typed);
        }
        let Type::Object(facts) = &*FACTS else {
            return Typed::of(Type::Any);
        };
        let path = Path(vec![name.to_owned()]);
        self.reads.insert(path.clone());
        match facts.fields.get(name) {
            Some(kind) => self.narrowed(e, Typed { kind: kind.clone(), path: Some(path) }),
            None => Typed { path: Some(path), ..self.fault(e, no_such(name, facts)) },
        }
    }

    /// Without the null, where a condition before has ruled it out.
    fn narrowed(&self, e: &IdedExpr, typed: Typed) -> Typed {
        match key_of(e) {
            Some(key) if self.present.contains(&key) => Typed { kind: typed.kind.present().clone(), path: typed.path },
            _ => typed,
        }
    }

    fn select(&mut self, e: &IdedExpr, select: &SelectExpr) -> Typed {
        if select.test {
            return self.fault(e, "has() hides what is unknown; compare with null");
        }
        let operand = self.visit(&select.operand);
        let path = operand.path.map(|p| p.then(select.field.as_str()));
        self.reads.extend(path.clone());
        let kind = match &operand.kind {
            Type::Object(object) => match object.fields.get(&select.field) {
                Some(kind) => kind.clone(),
                None => return self.fault(e, no_such(&select.field, object)),
            },
            Type::Any => Type::Any,
            Type::Nullable(_) => return self.may_be_null(&select.operand),
            Type::Map(_) => return self.fault(e, format!("use get(…, '{}'): an unset key is not an unknown one", select.field)),
            other => return self.fault(e, format!("{other} has no `{}`", select.field)),
        };
        self.narrowed(e, Typed { kind, path })
    }

    fn may_be_null(&mut self, e: &IdedExpr) -> Typed {
        let what = key_of(e).unwrap_or_else(|| "this".to_owned());
        self.fault(e, format!("`{what}` may be null; guard it with `{what} != null && …` or `{what} == null || …`"))
    }

    /// Visits `e`, of which nothing but `want` will do.
    fn want(&mut self, e: &IdedExpr, want: &Type) -> Typed {
        let typed = self.visit(e);
        match (&typed.kind, want) {
            (Type::Any, _) | (_, Type::Any) => {}
            (Type::List(_), Type::List(_)) | (Type::Map(_), Type::Map(_)) => {}
            (Type::Nullable(_), _) => {
                self.may_be_null(e);
            }
            (got, want) if got == want => {}
            (got, want) => {
                let message = format!("{got} where {want} is needed");
                self.fault(e, message);
            }
        }
        typed
    }

    fn call(&mut self, e: &IdedExpr, call: &CallExpr) -> Typed {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            (op::LOGICAL_AND, None, [a, b]) => self.both(a, b, true),
            (op::LOGICAL_OR, None, [a, b]) => self.both(a, b, false),
            (op::LOGICAL_NOT, None, [a]) => self.want(a, &Type::Bool),
            (op::NOT_STRICTLY_FALSE, None, [a]) => self.visit(a),
            (op::CONDITIONAL, None, [c, a, b]) => self.conditional(c, a, b),
            (op::EQUALS | op::NOT_EQUALS, None, [a, b]) => self.equality(e, a, b),
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, None, [a, b]) => {
                self.want(a, &Type::Int);
                self.want(b, &Type::Int);
                Typed::of(Type::Bool)
            }
            (op::IN, None, [a, b]) => self.membership(e, a, b),
            (op::ADD, None, [a, b]) => self.sum(e, a, b),
            (op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, None, [a, b]) => {
                self.want(a, &Type::Int);
                self.want(b, &Type::Int);
                Typed::of(Type::Int)
            }
            (op::NEGATE, None, [a]) => self.want(a, &Type::Int),
            (op::INDEX, ..) => self.fault(e, "x[y] cannot tell unset from unknown; use get(map, key), first(list) or exists"),
            ("get", None, [map, key]) => self.get(map, key),
            ("first", None, [list]) => {
                let element = self.want(list, &Type::List(Box::new(Type::Any))).element();
                self.narrowed(e, Typed { kind: element.kind.nullable(), path: element.path })
            }
            ("seen", None, [place, text]) => {
                self.visit(place);
                self.want(text, &Type::Text);
                Typed::of(quotation())
            }
            ("size_text" | "span_text", None, [n]) => self.returns(Type::Text, &[(n, Type::Int)]),
            ("string", None, [x]) => {
                self.visit(x);
                Typed::of(Type::Text)
            }
            ("size", None, [x]) | ("size", Some(x), []) => {
                let kind = self.visit(x).kind;
                if let Type::Nullable(_) = kind {
                    return self.may_be_null(x);
                }
                Typed::of(Type::Int)
            }
            ("startsWith" | "endsWith" | "contains" | "matches", Some(x), [y]) => {
                self.returns(Type::Bool, &[(x, Type::Text), (y, Type::Text)])
            }
            _ => self.fault(e, format!("there is no `{name}` for rules; there are: get, first, seen, size, size_text, span_text, string, startsWith, endsWith, contains, matches, exists, all, filter, map")),
        }
    }

    fn returns(&mut self, kind: Type, arguments: &[(&IdedExpr, Type)]) -> Typed {
        for (argument, want) in arguments {
            self.want(argument, want);
        }
        Typed::of(kind)
    }

    /// `a && b` (`b` matters where `a` is true) or `a || b` (where `a` is false).
    fn both(&mut self, a: &IdedExpr, b: &IdedExpr, and: bool) -> Typed {
        self.want(a, &Type::Bool);
        self.assuming(a, and, |walk| walk.want(b, &Type::Bool));
        Typed::of(Type::Bool)
    }

    fn conditional(&mut self, c: &IdedExpr, a: &IdedExpr, b: &IdedExpr) -> Typed {
        self.want(c, &Type::Bool);
        let a = self.assuming(c, true, |walk| walk.visit(a));
        let b = self.assuming(c, false, |walk| walk.visit(b));
        match (&a.kind, &b.kind) {
            (Type::Null, _) => Typed { kind: b.kind.nullable(), path: b.path },
            (_, Type::Null) => Typed { kind: a.kind.nullable(), path: a.path },
            _ if says_little(&a.kind) => b,
            _ => a,
        }
    }

    fn assuming<T>(&mut self, condition: &IdedExpr, value: bool, then: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.present.clone();
        present_if(condition, value, &mut self.present);
        let result = then(self);
        self.present = before;
        result
    }

    fn equality(&mut self, e: &IdedExpr, a: &IdedExpr, b: &IdedExpr) -> Typed {
        let (left, right) = (self.visit(a).kind, self.visit(b).kind);
        match (&left, &right) {
            (Type::Any, _) | (_, Type::Any) => {}
            (Type::Null, Type::Nullable(_)) | (Type::Nullable(_), Type::Null) => {}
            (Type::Null, other) | (other, Type::Null) => {
                let message = format!("{other} is never null: always the same");
                self.fault(e, message);
            }
            (l, r) if comparable(l.present(), r.present()) => {}
            (l, r) => {
                let message = format!("comparing {l} with {r} is always the same");
                self.fault(e, message);
            }
        }
        Typed::of(Type::Bool)
    }

    fn membership(&mut self, e: &IdedExpr, item: &IdedExpr, list: &IdedExpr) -> Typed {
        let item = self.visit(item).kind;
        let list_kind = self.visit(list).kind;
        match &list_kind {
            Type::Nullable(_) => {
                self.may_be_null(list);
            }
            Type::List(element) if comparable(item.present(), element.present()) => {}
            Type::List(element) => {
                let message = format!("{item} is never in a list of {element}");
                self.fault(e, message);
            }
            Type::Map(_) => {
                self.fault(e, "`in` cannot tell unset from unknown; use get(map, key) != null");
            }
            Type::Any => {}
            other => {
                let message = format!("{other} is no list");
                self.fault(e, message);
            }
        }
        Typed::of(Type::Bool)
    }

    fn sum(&mut self, e: &IdedExpr, a: &IdedExpr, b: &IdedExpr) -> Typed {
        let (left, right) = (self.visit(a), self.visit(b));
        match (&left.kind, &right.kind) {
            (Type::Any, _) => right,
            (Type::List(_), Type::List(_)) if says_little(&left.kind) => right,
            (Type::List(_), Type::List(_)) => left,
            (Type::Int, Type::Int | Type::Any) | (Type::Text, Type::Text | Type::Any) => left,
            (l, r) => {
                let message = format!("cannot add {r} to {l}");
                self.fault(e, message)
            }
        }
    }

    fn get(&mut self, map: &IdedExpr, key: &IdedExpr) -> Typed {
        let typed = self.want(map, &Type::Map(Box::new(Type::Any)));
        self.want(key, &Type::Text);
        let name = match &key.expr {
            Ast::Literal(LiteralValue::String(s)) => s.inner().to_owned(),
            _ => "[*]".to_owned(),
        };
        let path = typed.path.map(|p| p.then(name));
        self.reads.extend(path.clone());
        let kind = match typed.kind.present() {
            Type::Map(value) => (**value).clone().nullable(),
            _ => Type::Any,
        };
        let key = key_of(map).zip(literal_of(key)).map(|(map, key)| format!("get({map}, {key})"));
        match key {
            Some(key) if self.present.contains(&key) => Typed { kind: kind.present().clone(), path },
            _ => Typed { kind, path },
        }
    }

    fn comprehension(&mut self, e: &IdedExpr, loop_: &ComprehensionExpr) -> Typed {
        let range = self.visit(&loop_.iter_range);
        match &range.kind {
            Type::List(_) | Type::Any => {}
            Type::Nullable(_) => return self.may_be_null(&loop_.iter_range),
            other => {
                let message = format!("{other} is no list");
                return self.fault(e, message);
            }
        }
        let filtered = matches!(&loop_.loop_step.expr, Ast::Call(c) if c.func_name == op::CONDITIONAL) && keeps(loop_);
        // A guard outside must not speak for a variable of the same name inside.
        let shadowed: Vec<String> = self.present.iter().filter(|p| begins_with_name(p, &loop_.iter_var)).cloned().collect();
        for key in &shadowed {
            self.present.remove(key);
        }
        self.names.push((loop_.iter_var.clone(), range.element()));
        let init = self.visit(&loop_.accu_init);
        self.names.push((loop_.accu_var.clone(), init));
        self.visit(&loop_.loop_cond);
        let step = self.visit(&loop_.loop_step);
        self.names.pop();
        self.names.push((loop_.accu_var.clone(), Typed::of(step.kind)));
        let result = self.visit(&loop_.result);
        self.names.truncate(self.names.len() - 2);
        self.present.extend(shadowed);
        Typed { kind: result.kind, path: if filtered { range.path } else { None } }
    }
}

/// `filter`, as opposed to `map`: what is added is the loop's variable itself.
fn keeps(loop_: &ComprehensionExpr) -> bool {
    let Ast::Call(choice) = &loop_.loop_step.expr else { return false };
    let Some(Ast::Call(add)) = choice.args.get(1).map(|a| &a.expr) else { return false };
    let Some(Ast::List(list)) = add.args.get(1).map(|a| &a.expr) else { return false };
    matches!(list.elements.first().map(|x| &x.expr), Some(Ast::Ident(name)) if *name == loop_.iter_var)
}

fn begins_with_name(key: &str, name: &str) -> bool {
    key.trim_start_matches("get(").split(['.', ',']).next() == Some(name)
}

/// Anything, or a list of anything (an empty list): another type beside it is the better one.
fn says_little(kind: &Type) -> bool {
    matches!(kind, Type::List(t) if **t == Type::Any) || *kind == Type::Any
}

fn comparable(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Any, _) | (_, Type::Any) => true,
        (Type::List(a), Type::List(b)) | (Type::Map(a), Type::Map(b)) => comparable(a.present(), b.present()),
        (a, b) => a == b,
    }
}

fn no_such(name: &str, object: &Object) -> String {
    let known: Vec<&str> = object.fields.keys().map(String::as_str).collect();
    format!("no fact `{name}` in {}; there are: {}", object.name, known.join(", "))
}

/// Adds what is not null if `condition` is `value`.
fn present_if(condition: &IdedExpr, value: bool, present: &mut BTreeSet<String>) {
    let Ast::Call(call) = &condition.expr else { return };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (op::LOGICAL_AND, [a, b]) if value => {
            present_if(a, true, present);
            present_if(b, true, present);
        }
        (op::LOGICAL_OR, [a, b]) if !value => {
            present_if(a, false, present);
            present_if(b, false, present);
        }
        (op::LOGICAL_NOT, [a]) => present_if(a, !value, present),
        (op::NOT_EQUALS, [a, b]) if value => present.extend(against_null(a, b)),
        (op::EQUALS, [a, b]) if !value => present.extend(against_null(a, b)),
        // Equal to a literal that is not null: not null.
        (op::EQUALS, [a, b]) if value && literal_of(b).is_some_and(|l| l != "null") => present.extend(key_of(a)),
        _ => {}
    }
}

fn against_null(a: &IdedExpr, b: &IdedExpr) -> Option<String> {
    match (literal_of(a).as_deref(), literal_of(b).as_deref()) {
        (_, Some("null")) => key_of(a),
        (Some("null"), _) => key_of(b),
        _ => None,
    }
}

/// A text for expressions that mean the same value each time: `a.b`, `get(a.b, 'k')`, `first(a.b)`.
fn key_of(e: &IdedExpr) -> Option<String> {
    match &e.expr {
        Ast::Ident(name) => Some(name.clone()),
        Ast::Select(s) if !s.test => Some(format!("{}.{}", key_of(&s.operand)?, s.field)),
        Ast::Call(c) => match (c.func_name.as_str(), c.args.as_slice()) {
            ("get", [map, key]) => Some(format!("get({}, {})", key_of(map)?, literal_of(key)?)),
            ("first", [list]) => Some(format!("first({})", key_of(list)?)),
            _ => None,
        },
        _ => None,
    }
}

fn literal_of(e: &IdedExpr) -> Option<String> {
    match &e.expr {
        Ast::Literal(LiteralValue::String(s)) => Some(format!("'{}'", s.inner())),
        Ast::Literal(LiteralValue::Int(i)) => Some(i.inner().to_string()),
        Ast::Literal(LiteralValue::Boolean(b)) => Some(b.inner().to_string()),
        Ast::Literal(LiteralValue::Null) => Some("null".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(source: &str) -> Vec<String> {
        let faults = check(&Expr::new(source, 1, 1), &Given::default()).err().unwrap_or_default();
        faults.into_iter().map(|f| format!("{}: {}", f.offset, f.message)).collect()
    }

    #[test]
    fn right_expressions() {
        for source in [
            "unit != null && unit.active == 'active'",
            "unit == null || unit.active == 'active'",
            "!(unit == null) && unit.active == 'active'",
            "unit == null ? 'none' : unit.active",
            "names.hosts_entry == null ? null : names.hosts_entry.at",
            "listeners.exists(l, l.at != null && l.at.line == 3)",
            "get(conf.settings, 'heartbeat') != null && get(conf.settings, 'heartbeat').value == '30'",
            "clients.exists(c, c.user_exists == true)",
            "clients.filter(c, c.firewall.decided_by != null).all(c, c.remote)",
            "clients.map(c, c.firewall.decided_by != null, c.firewall.decided_by.rule)",
            "listeners.map(l, l.port) == [5672]",
            "node != null && node.users.exists(u, u.name == 'guest' && node.permissions.exists(p, p.user == u.name))",
            "conf.newest_mtime + 60 > os.now",
        ] {
            assert_eq!(wrong(source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn wrong_expressions() {
        for (source, why) in [
            ("unit != null && unit.activ == 'active'", "no fact `activ`"),
            ("unlt != null", "0: no fact `unlt`"),
            ("listeners.exists(l, l.port == '5672')", "comparing a number with a text is always the same"),
            ("unit.active == 'active'", "`unit` may be null"),
            ("unit != null || unit.active == 'active'", "`unit` may be null"),
            ("has(unit.active)", "has() hides"),
            ("conf.settings['x'] != null", "use get(map, key)"),
            ("get(conf.settings, 'x').value == 'y'", "`get(conf.settings, 'x')` may be null"),
            ("'x' in conf.settings", "use get(map, key)"),
            ("conf.settings.x != null", "use get("),
            ("5672 in listeners", "is never in a list"),
            ("install.version > '3.9'", "may be null"),
            ("install != null && install.version > '3.9'", "where a number is needed"),
            ("os.root == null", "never null"),
            ("clients.exists(c, c.user_exists)", "`c.user_exists` may be null"),
            ("names.node && true", "where true/false is needed"),
            ("listeners[0].port == 1", "first(list)"),
            ("lower(names.node) == 'a'", "there is no `lower`"),
            ("conf.settings.exists(k, k == 'a')", "no list"),
            ("unit != null && listeners.exists(unit, unit.at.line == 1)", "`unit.at` may be null"),
            ("names.hosts_entry != null && listeners.exists(names, names.at.line == 1)", "`names.at` may be null"),
        ] {
            let found = wrong(source);
            assert!(found.iter().any(|f| f.contains(why)), "{source}: {found:?}");
        }
    }

    #[test]
    fn the_facts_that_are_read() {
        let reads = |source: &str| {
            let expr = Expr::new(source, 1, 1);
            super::reads(&expr, None).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reads("unit != null && unit.state == 'failed'"), ["unit", "unit.state"]);
        assert_eq!(
            reads("clients.filter(c, c.remote).exists(d, d.listener == 'absent')"),
            ["clients", "clients[*]", "clients[*].listener", "clients[*].remote"]
        );
        assert_eq!(reads("get(conf.settings, 'a.b') == null"), ["conf", "conf.settings", "conf.settings.a.b"]);
    }
}
