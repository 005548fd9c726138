//! Dates of the proleptic Gregorian calendar.

/// A date and time of day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Date {
    pub year: i64,
    /// 1-12.
    pub month: u8,
    /// 1-31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

const DAY: i64 = 86_400;
/// Days in 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

impl Date {
    /// From seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Days since 1 March of year 0, so that the leap day is the last of its year.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 {
            (month + 3, 0)
        } else {
            (month - 9, 1)
        };
        Self {
            year: era * 400 + year + carry,
            month: month as u8,
            day: day as u8,
            hour: (of_day / 3_600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Seconds since 1970. A field out of its range counts on into the next unit.
    pub fn seconds(self) -> i64 {
        let months = self.year * 12 + self.month as i64 - 1;
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12));
        // March is month 0 of this reckoning.
        let (year, month) = if month < 2 {
            (year - 1, month + 10)
        } else {
            (year, month - 2)
        };
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day = (153 * month + 2) / 5 + self.day as i64 - 1;
        let days = era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + day - 719_468;
        days * DAY + self.hour as i64 * 3_600 + self.minute as i64 * 60 + self.second as i64
    }

    /// Day of the week of a time, 1 is Sunday.
    pub fn weekday(seconds: i64) -> u8 {
        (seconds.div_euclid(DAY) + 4).rem_euclid(7) as u8 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        let d = |year, month, day, hour, minute, second| Date {
            year,
            month,
            day,
            hour,
            minute,
            second,
        };
        for (seconds, date, weekday) in [
            (0, d(1970, 1, 1, 0, 0, 0), 5),
            (951_782_399, d(2000, 2, 28, 23, 59, 59), 2),
            (951_782_400, d(2000, 2, 29, 0, 0, 0), 3),
            (4_107_542_399, d(2100, 2, 28, 23, 59, 59), 1),
            (4_107_542_400, d(2100, 3, 1, 0, 0, 0), 2),
            (1_795_153_213, d(2026, 11, 20, 5, 40, 13), 6),
            (-1, d(1969, 12, 31, 23, 59, 59), 4),
        ] {
            assert_eq!(Date::from_seconds(seconds), date);
            assert_eq!(date.seconds(), seconds);
            assert_eq!(Date::weekday(seconds), weekday, "{date:?}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in -62_167_219_200i64..253_402_300_800) {
            prop_assert_eq!(Date::from_seconds(seconds).seconds(), seconds);
        }

        #[test]
        fn any_fields_are_some_time(year in 0i64..25_600, month: u8, day: u8, hour: u8, minute: u8, second: u8) {
            let s = Date { year, month, day, hour, minute, second }.seconds();
            prop_assert_eq!(Date::from_seconds(s).seconds(), s);
        }
    }
}
