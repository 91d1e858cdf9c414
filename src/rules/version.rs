//! Versions and ranges of versions: `>=3.8, <4.0`. Never compared as text: "3.10" sorts before "3.9".

use std::fmt;

/// `4.0.5` as numbers. A suffix (`-rc.1`, `+deb`) and further parts are not compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u64; 3]);

impl Version {
    /// `None`: it does not begin with a number.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.trim().split(['-', '+', '~']).next()?;
        let mut parts = [0; 3];
        for (part, text) in parts.iter_mut().zip(numbers.split('.')) {
            *part = text.parse().ok()?;
        }
        Some(Version(parts))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    AtLeast,
    Above,
    Below,
    AtMost,
}

/// Versions that a rule speaks about: all bounds must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    bounds: Vec<(Op, Version)>,
    text: String,
}

impl Range {
    /// Reads `>=3.8, <4.0`; the error says what was not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bounds = text.split(',').map(|bound| bound_of(bound.trim())).collect::<Result<Vec<_>, _>>()?;
        Ok(Range { bounds, text: text.to_owned() })
    }

    pub fn contains(&self, version: &Version) -> bool {
        self.bounds.iter().all(|(op, bound)| match op {
            Op::AtLeast => version >= bound,
            Op::Above => version > bound,
            Op::Below => version < bound,
            Op::AtMost => version <= bound,
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn bound_of(text: &str) -> Result<(Op, Version), String> {
    const OPS: [(&str, Op); 4] = [(">=", Op::AtLeast), ("<=", Op::AtMost), (">", Op::Above), ("<", Op::Below)];
    let wrong = || format!("`{text}` is not a bound such as `>=3.8`");
    let (op, rest) = OPS.iter().find_map(|(sign, op)| text.strip_prefix(sign).map(|rest| (*op, rest))).ok_or_else(wrong)?;
    Ok((op, Version::parse(rest).ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let v = |t| Version::parse(t).unwrap();
        assert!(v("3.10.8") > v("3.9.0"));
        assert_eq!(v("4.0"), v("4.0.0"));
        assert_eq!(v("4.1.0-rc.1"), v("4.1"));
        assert_eq!(Version::parse("unknown"), None);
    }

    #[test]
    fn ranges() {
        let range = Range::parse(">=3.8, <4.0").unwrap();
        assert!(range.contains(&Version::parse("3.13.7").unwrap()));
        assert!(!range.contains(&Version::parse("4.0.0").unwrap()));
        assert!(Range::parse("3.8").is_err());
        assert!(Range::parse(">=x").is_err());
    }
}
