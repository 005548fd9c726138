//! Tables of what is forgotten after a while, and sooner when there is no room.

use super::core::Core;
use super::timers::Timer;
use super::token::{Kind, Token};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Values by key and by token, so many at most: a new one takes the place of that which was used last the longest
/// time ago.
pub struct Flows<K, V> {
    kind: Kind,
    most: usize,
    entries: HashMap<Token, Entry<K, V>>,
    tokens: HashMap<K, Token>,
    /// By when they were used.
    order: BTreeMap<u64, Token>,
    uses: u64,
}

struct Entry<K, V> {
    key: K,
    value: V,
    used: u64,
    idle: Duration,
    timer: Timer,
}

impl<K: Hash + Eq + Clone, V> Flows<K, V> {
    pub fn new(kind: Kind, most: usize) -> Self {
        Self {
            kind,
            most,
            entries: HashMap::new(),
            tokens: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Who has a key.
    pub fn find(&self, key: &K) -> Option<Token> {
        self.tokens.get(key).copied()
    }

    /// A value.
    pub fn get(&mut self, token: Token) -> Option<&mut V> {
        self.entries.get_mut(&token).map(|e| &mut e.value)
    }

    /// A value that is used.
    pub fn touch(&mut self, core: &mut Core, token: Token) -> Option<&mut V> {
        let entry = self.entries.get_mut(&token)?;
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(entry.used, token);
        core.set_timer(&mut entry.timer, token, entry.idle);
        Some(&mut entry.value)
    }

    /// Makes room for one more, if there is none.
    pub fn evict(&mut self, core: &mut Core) -> Option<V> {
        if self.entries.len() < self.most {
            return None;
        }
        let (_, &oldest) = self.order.first_key_value()?;
        self.remove(core, oldest)
    }

    /// Adds a value, to be forgotten when it has not been used for so long. The key must not be there.
    pub fn insert(&mut self, core: &mut Core, token: Token, key: K, value: V, idle: Duration) {
        self.evict(core);
        self.uses += 1;
        let mut entry = Entry {
            key: key.clone(),
            value,
            used: self.uses,
            idle,
            timer: Timer::default(),
        };
        core.set_timer(&mut entry.timer, token, idle);
        self.order.insert(entry.used, token);
        self.tokens.insert(key, token);
        self.entries.insert(token, entry);
    }

    /// A token for a value to add.
    pub fn token(&self, core: &mut Core) -> Token {
        core.token(self.kind)
    }

    /// A timer has come up: forgets it, if that is due.
    pub fn expired(&mut self, core: &mut Core, token: Token) -> Option<V> {
        let entry = self.entries.get_mut(&token)?;
        match core.timers.is_due(&mut entry.timer, token, core.now) {
            true => self.remove(core, token),
            false => None,
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, core: &mut Core, token: Token) -> Option<V> {
        let mut entry = self.entries.remove(&token)?;
        core.timers.cancel(&mut entry.timer, token);
        self.order.remove(&entry.used);
        self.tokens.remove(&entry.key);
        Some(entry.value)
    }
}
