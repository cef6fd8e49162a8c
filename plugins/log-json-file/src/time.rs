//! Times as RFC 3339 with nanoseconds, zeros at the end left out.

const SECOND: u64 = 1_000_000_000;

/// Writes times; lines of one second share everything but the fraction.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    second: Option<u64>,
    text: [u8; 19],
}

impl Clock {
    /// Appends a time in nanoseconds since 1970.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, time: u64) {
        let (second, mut nanos) = (time / SECOND, time % SECOND);
        if self.second != Some(second) {
            self.text = date(second);
            self.second = Some(second);
        }
        out.extend_from_slice(&self.text);
        if nanos > 0 {
            let mut digits = 9;
            while nanos.is_multiple_of(10) {
                nanos /= 10;
                digits -= 1;
            }
            let mut fraction = [b'.'; 10];
            for slot in fraction.iter_mut().skip(1).take(digits).rev() {
                *slot = digit(nanos % 10);
                nanos /= 10;
            }
            out.extend_from_slice(fraction.get(..=digits).unwrap_or(&fraction));
        }
        out.push(b'Z');
    }
}

fn digit(number: u64) -> u8 {
    b'0' + u8::try_from(number).unwrap_or(0)
}

/// `2024-01-02T03:04:05`.
fn date(second: u64) -> [u8; 19] {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00";
    for (start, length, mut number) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, rest / 3600),
        (14, 2, rest / 60 % 60),
        (17, 2, rest % 60),
    ] {
        for slot in text.iter_mut().skip(start).take(length).rev() {
            *slot = digit(number % 10);
            number /= 10;
        }
    }
    text
}

/// Days since 1970 as a date, by counting in eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Reads what [`Clock`] and Docker write; also with an offset, as other writers do.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let part = text.get(range)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let separators = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    let shape = separators.iter().all(|(at, wanted)| text.get(*at..=*at) == Some(wanted));
    if !shape
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        nanos = fraction.get(..digits)?.parse::<u64>().ok()? * 10_u64.pow(9 - u32::try_from(digits).ok()?);
        rest = fraction.get(digits..)?;
    }
    let offset = offset_seconds(rest)?;
    let seconds =
        i64::try_from(days_from_civil(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second)
            .ok()?;
    u64::try_from(seconds - offset).ok()?.checked_mul(SECOND)?.checked_add(nanos)
}

fn offset_seconds(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = if text.starts_with('+') {
        1
    } else if text.starts_with('-') {
        -1
    } else {
        return None;
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    Some(
        sign * (hours.parse::<u8>().map(i64::from).ok()? * 3600
            + minutes.parse::<u8>().map(i64::from).ok()? * 60),
    )
}

fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}
