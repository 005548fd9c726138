//! When something is to happen.

use super::token::Token;
use std::collections::BTreeSet;
use std::time::Instant;

/// All times that are waited for, one for each token.
#[derive(Default)]
pub struct Timers {
    entries: BTreeSet<(Instant, Token)>,
}

/// The time that one thing waits for. To put it off, as every packet of a connection does, costs nothing: the entry
/// stays where it is, and moves when it comes up.
#[derive(Default)]
pub struct Timer {
    due: Option<Instant>,
    entry: Option<Instant>,
}

impl Timers {
    /// Has `timer` come up at `due`, and not before.
    pub fn set(&mut self, timer: &mut Timer, token: Token, due: Instant) {
        timer.due = Some(due);
        if timer.entry.is_none_or(|entry| due < entry) {
            if let Some(entry) = timer.entry.replace(due) {
                self.entries.remove(&(entry, token));
            }
            self.entries.insert((due, token));
        }
    }

    /// Forgets it.
    pub fn cancel(&mut self, timer: &mut Timer, token: Token) {
        timer.due = None;
        if let Some(entry) = timer.entry.take() {
            self.entries.remove(&(entry, token));
        }
    }

    /// The first one.
    pub fn first(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// Takes the first one whose time has come; whoever has it asks [`is_due`](Self::is_due).
    pub fn pop(&mut self, now: Instant) -> Option<Token> {
        self.entries.first().filter(|(at, _)| *at <= now)?;
        self.entries.pop_first().map(|(_, token)| token)
    }

    /// Whether it is really due, of one that was popped. If it was put off it goes back.
    pub fn is_due(&mut self, timer: &mut Timer, token: Token, now: Instant) -> bool {
        timer.entry = None;
        match timer.due {
            Some(due) if due > now => {
                self.set(timer, token, due);
                false
            }
            due => {
                timer.due = None;
                due.is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::Kind;
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_come_up_once_and_not_early() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let (mut timers, token) = (Timers::default(), Token::new(Kind::Tcp, 7));
        let mut timer = Timer::default();
        timers.set(&mut timer, token, start + ms(10));
        timers.set(&mut timer, token, start + ms(20));
        assert_eq!(timers.first(), Some(start + ms(10)), "putting off moves nothing");
        assert_eq!(timers.pop(start + ms(9)), None);
        assert_eq!(timers.pop(start + ms(10)), Some(token));
        assert!(!timers.is_due(&mut timer, token, start + ms(10)));
        timers.set(&mut timer, token, start + ms(15));
        assert_eq!(timers.pop(start + ms(15)), Some(token));
        assert!(timers.is_due(&mut timer, token, start + ms(15)));
        assert_eq!(timers.first(), None);
        timers.set(&mut timer, token, start);
        timers.cancel(&mut timer, token);
        assert_eq!(timers.first(), None);
    }
}
