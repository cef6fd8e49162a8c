//! The bytes that Docker's clients expect around output.

use crate::spool::Stream;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 8;
/// Bytes of a time stamp.
const STAMP: usize = 30;

/// A header of Docker's stdcopy framing: stream, three zeros, length.
pub(crate) fn header(stream: Stream, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [stream.number(), 0, 0, 0, a, b, c, d]
}

/// Year, month and day of a count of days since 1970 (the proleptic Gregorian calendar, years from March on).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Makes time stamps in RFC 3339 with always nine digits, as Docker does; remembers the last one.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    time: u64,
    text: Vec<u8>,
}

impl Stamps {
    pub(crate) fn of(&mut self, time: u64) -> &[u8] {
        if self.text.len() != STAMP || self.time != time {
            use std::io::Write;
            let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
            let (year, month, day) = date(seconds / 86_400);
            let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
            self.text.clear();
            let _ = write!(
                self.text,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z"
            );
            self.time = time;
        }
        &self.text
    }
}

/// Docker's `since` and `until`: seconds since 1970 with up to nine digits after the point, `-` ignored as no time.
/// None for what is no such number.
pub fn parse_time(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Some(negative) = seconds.strip_prefix('-') {
        // Before 1970 is before everything.
        return (!negative.is_empty() && negative.bytes().all(|b| b.is_ascii_digit())).then_some(0);
    }
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stamps_read_as_rfc3339() {
        let mut stamps = Stamps::default();
        let mut text = |time| String::from_utf8(stamps.of(time).to_vec()).unwrap();
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(text(1_893_455_999_999_999_999), "2029-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn times_of_clients() {
        assert_eq!(parse_time("1136073600.000000001"), Some(1_136_073_600_000_000_001));
        assert_eq!(parse_time("5"), Some(5_000_000_000));
        assert_eq!(parse_time("5.5"), Some(5_500_000_000));
        assert_eq!(parse_time("0.1234567899"), Some(123_456_789));
        assert_eq!(parse_time("-62135596800.0"), Some(0));
        for bad in ["", "x", "1.x", "1,5", "99999999999999999999", ".5"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn dates_grow_by_one_day(day in 0u64..200_000) {
            let (a, b) = (date(day), date(day + 1));
            prop_assert!(a < b);
            prop_assert!((1..=12).contains(&a.1) && (1..=31).contains(&a.2));
            prop_assert!(b.2 == a.2 + 1 || b.2 == 1);
        }
    }
}
