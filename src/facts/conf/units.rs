//! Sizes as the broker reads them: digits and a unit, nothing between. What a unit means depends on the version.

/// Of this release on a bare `K`, `M` or `G` counts thousands (before: 1024), and larger units and `Ki`, `Mi`, `Gi` are known.
pub const NEW_UNITS: (u32, u32) = (3, 13);

/// How one generation reads units.
struct Generation {
    /// Units of 1000, in steps of it from the first on; several spellings each.
    thousands: &'static [&'static [&'static str]],
    /// Units of 1024.
    binary: &'static [&'static [&'static str]],
}

/// Facts: `rabbit_resource_monitor_misc` of 3.8.10 to 3.12.14.
const OLD: Generation = Generation {
    thousands: &[&["kB", "KB", "kb", "Kb"], &["MB", "mb", "Mb"], &["GB", "gb", "Gb"]],
    binary: &[&["k", "K", "kiB", "KiB", "kib", "KIB"], &["m", "M", "MiB", "mib", "MIB"], &["g", "G", "GiB", "gib", "GIB"]],
};
/// Facts: the same of 3.13.0 to 4.3.5.
const NEW: Generation = Generation {
    thousands: &[
        &["k", "K", "kB", "KB", "kb", "Kb"],
        &["m", "M", "MB", "mb", "Mb"],
        &["g", "G", "GB", "gb", "Gb"],
        &["TB", "tb", "Tb"],
        &["p", "P", "PB", "pb", "Pb"],
    ],
    binary: &[
        &["Ki", "ki", "kiB", "KiB", "kib", "KIB"],
        &["Mi", "MiB", "mib", "MIB"],
        &["Gi", "GiB", "gib", "GIB"],
        &["Ti", "TiB", "tib", "TIB"],
        &["Pi", "PiB", "pib", "PIB"],
    ],
};

/// Bytes; None: this version cannot read it.
pub fn bytes(text: &str, series: (u32, u32)) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.parse().ok()?;
    number.checked_mul(factor(unit, series)?)
}

fn factor(unit: &str, series: (u32, u32)) -> Option<i64> {
    if unit.is_empty() {
        return Some(1);
    }
    let generation = if series >= NEW_UNITS { NEW } else { OLD };
    let power = |steps: &[&[&str]], base: i64| {
        let step = steps.iter().position(|names| names.contains(&unit))?;
        base.checked_pow(u32::try_from(step).ok()? + 1)
    };
    power(generation.thousands, 1000).or_else(|| power(generation.binary, 1024))
}

/// Both readings of a size, before and since 3.13, where they differ.
pub fn two_meanings(text: &str) -> Option<(i64, i64)> {
    let (old, new) = (bytes(text, (3, 12))?, bytes(text, NEW_UNITS)?);
    (old != new).then_some((old, new))
}

/// A spelling of the same number of bytes that every version reads alike: `2G`, meant as 1024³, is `2GiB`.
pub fn unmistakable(text: &str, series: (u32, u32)) -> Option<String> {
    let meant = bytes(text, series)?;
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let letter = text.get(number.len()..)?.to_ascii_uppercase();
    let candidates = [format!("{number}{letter}B"), format!("{number}{letter}iB")];
    candidates.into_iter().find(|c| bytes(c, (3, 12)) == Some(meant) && bytes(c, NEW_UNITS) == Some(meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_by_version() {
        let cases = [
            ("1000", Some(1000), Some(1000)),
            ("2GB", Some(2_000_000_000), Some(2_000_000_000)),
            ("2GiB", Some(2 << 30), Some(2 << 30)),
            ("2G", Some(2 << 30), Some(2_000_000_000)),
            ("2g", Some(2 << 30), Some(2_000_000_000)),
            ("512M", Some(512 << 20), Some(512_000_000)),
            ("2Gi", None, Some(2 << 30)),
            ("1TB", None, Some(1_000_000_000_000)),
            ("1T", None, None),
            ("2 GB", None, None),
            ("1.5GB", None, None),
            ("GB", None, None),
            ("2gB", None, None),
        ];
        for (text, old, new) in cases {
            assert_eq!((bytes(text, (3, 12)), bytes(text, (3, 13))), (old, new), "{text}");
        }
        assert_eq!(two_meanings("2G"), Some((2 << 30, 2_000_000_000)));
        assert_eq!(two_meanings("2GB"), None);
        assert_eq!(unmistakable("2G", (3, 12)).as_deref(), Some("2GiB"));
        assert_eq!(unmistakable("2G", (4, 0)).as_deref(), Some("2GB"));
    }
}
