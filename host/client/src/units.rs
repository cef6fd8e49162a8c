//! Sizes, times and durations in the words that docker's command line uses.

use crate::Error;

/// `512m`, `1.5g`, `100` to bytes (binary units).
pub(crate) fn bytes(text: &str) -> Result<i64, Error> {
    let wrong = || Error::Usage(format!("invalid size: '{text}' (use for example 512m or 2g)"));
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower.get(number.len()..).unwrap_or_default().trim_end_matches("ib").trim_end_matches('b');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let fraction: f64 = number.parse().map_err(|_| wrong())?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a size given as a fraction is not exact"
    )]
    let value = (fraction * (1_i64 << shift) as f64) as i64;
    Ok(value)
}

/// Bytes in decimal units with three digits, as docker prints image sizes: `1.23MB`.
pub(crate) fn human(size: i64) -> String {
    decimal(size, 3)
}

/// With four digits, as docker prints usage: `1.234MB`.
pub(crate) fn human_exact(size: i64) -> String {
    decimal(size, 4)
}

fn decimal(size: i64, significant: usize) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[allow(clippy::cast_precision_loss, reason = "a few digits are shown")]
    let mut value = size as f64;
    let mut unit = "B";
    for next in units {
        unit = next;
        if value < 1000.0 {
            break;
        }
        if next != "PB" {
            value /= 1000.0;
        }
    }
    let whole = if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    let digits = if unit == "B" { 0 } else { significant.saturating_sub(whole) };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// How long ago in words: `About a minute`, `3 hours`.
pub(crate) fn ago(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (i64::MIN..1, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Seconds since the epoch now.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A time in RFC 3339, in this machine's zone.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let text = zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    text.strip_suffix("+00:00").map(|t| format!("{t}Z")).unwrap_or(text)
}

/// A time of the API as Go prints one: `2025-01-02 03:04:05.6 +0000 UTC`.
pub(crate) fn go_time(text: &str) -> String {
    let Ok(time) = text.parse::<jiff::Timestamp>() else { return text.to_owned() };
    time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}

/// A point in time for `--since` and `--until`: a duration back from now (`10m`, `1h30m`), RFC 3339, or seconds.
pub(crate) fn moment(text: &str) -> Result<String, Error> {
    if text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()));
    }
    if let Some(nanos) = duration(text) {
        let at = i128::from(jiff::Timestamp::now().as_second()) * 1_000_000_000 - i128::from(nanos);
        return Ok(format!("{}.{:09}", at / 1_000_000_000, at % 1_000_000_000));
    }
    if let Ok(date) = text.parse::<jiff::civil::DateTime>()
        && let Ok(zoned) = date.to_zoned(jiff::tz::TimeZone::system())
    {
        return Ok(zoned.timestamp().as_second().to_string());
    }
    Err(Error::Usage(format!(
        "invalid time '{text}': use seconds, a duration such as 10m, or a time such as 2025-01-02T03:04:05Z"
    )))
}

/// Go's duration notation in nanoseconds: `300ms`, `1.5h`, `2h45m`.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let total = wharf_plan::duration::nanoseconds(text)?;
    #[allow(clippy::cast_possible_truncation, reason = "durations of centuries are cut")]
    Some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, value) in
            [("6m", 6 << 20), ("1g", 1 << 30), ("1.5k", 1536), ("42", 42), ("42b", 42), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text).unwrap(), value, "{text}");
        }
        assert!(bytes("much").is_err() && bytes("").is_err() && bytes("9x").is_err());
        for (size, text) in [
            (0, "0B"),
            (999, "999B"),
            (4_261_574, "4.26MB"),
            (12_300_000, "12.3MB"),
            (566_000_000, "566MB"),
            (1_000_000, "1MB"),
        ] {
            assert_eq!(human(size), text);
        }
        assert_eq!([1_982_345, 12_345_678, 999].map(human_exact), ["1.982MB", "12.35MB", "999B"]);
    }

    #[test]
    fn times() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("300ms"), Some(300_000_000));
        assert_eq!(duration("x"), None);
        assert_eq!(duration(""), None);
        assert_eq!(moment("12.5").unwrap(), "12.5");
        assert_eq!(moment("1970-01-01T00:00:10Z").unwrap(), "10.000000000");
        assert!(moment("yesterday").is_err());
        assert_eq!(go_time("2026-11-30T00:54:26.297143634Z"), "2026-11-30 00:54:26.297143634 +0000 UTC");
        assert_eq!(go_time("2026-11-30T00:54:26Z"), "2026-11-30 00:54:26 +0000 UTC");
        assert_eq!(
            [0, 59, 61, 2800, 3700, 7300, 200_000].map(ago),
            [
                "Less than a second",
                "59 seconds",
                "About a minute",
                "46 minutes",
                "About an hour",
                "2 hours",
                "2 days"
            ]
        );
    }
}
