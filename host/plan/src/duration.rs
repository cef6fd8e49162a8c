//! Durations in Go's notation, as Docker's and runc's clients write them.

const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Nanoseconds of `300ms`, `1.5h`, `2h45m`: numbers, each with its unit, and no sign. None for anything else, and for nothing.
pub fn nanoseconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters)?;
        let (_, scale) = UNITS.iter().find(|(known, _)| *known == unit)?;
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::nanoseconds;

    #[test]
    fn numbers_with_units() {
        for (text, found) in
            [("1h30m", 5400e9), ("10s", 10e9), ("100us", 1e5), ("7µs", 7e3), ("1.5h", 5400e9), ("0s", 0.0)]
        {
            assert_eq!(nanoseconds(text), Some(found), "{text}");
        }
        for bad in ["", "h", "5", "5x", "1h5", "-1s", "1..5s", "1e9s"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
    }
}
