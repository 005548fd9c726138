//! Saving and restoring a function.

use super::Node;
use crate::msix::Vector;
use crate::registers::power;
use donjon_devices::{Migrate, Record, RestoreError};
use serde::{Deserialize, Serialize};

/// A function's saved state.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub number: u8,
    config: Vec<u8>,
    vectors: Vec<Vector>,
    asserted: bool,
    own: Option<Record>,
}

impl Node {
    pub fn save(&self) -> Result<Saved, String> {
        let own = match self.function.migrate() {
            Migrate::Stateless => None,
            Migrate::State(record) => Some(record),
            Migrate::Refuse(why) => {
                return Err(self.complaint(&why));
            }
        };
        let config = self.state.lock().space.all().to_vec();
        let (vectors, asserted) = self.interrupts.save();
        Ok(Saved {
            number: self.number,
            config,
            vectors,
            asserted,
            own,
        })
    }

    fn complaint(&self, what: &str) -> String {
        format!("PCI device {:02x}.{}: {what}", self.number >> 3, self.number & 7)
    }

    /// Whether a saved state is one of this function. What is wrong, if not.
    pub fn check(&self, saved: &Saved) -> Result<(), String> {
        let wrong = |what: &str| Err(self.complaint(what));
        let config = saved.config.as_slice().try_into();
        let same = |c| self.initial.is_like(c, &self.layout.capabilities);
        if !config.is_ok_and(same) || saved.vectors.len() != usize::from(self.interrupts.vectors()) {
            return wrong("another device was there, or it had another configuration space");
        }
        if saved.own.is_none() && self.function.migrate() != Migrate::Stateless {
            return wrong("its state is missing");
        }
        if !saved.vectors.iter().all(Vector::is_legal) {
            return wrong("reserved bits of its MSI-X table are set");
        }
        Ok(())
    }

    /// Takes over what [`Node::check`] has found right.
    pub fn restore(&self, saved: &Saved) -> Result<(), RestoreError> {
        let mut s = self.state.lock();
        if s.outputs.master {
            self.function.bus_master(false);
            s.outputs.master = false;
        }
        if let Ok(config) = saved.config.as_slice().try_into() {
            s.space.restore(config);
        }
        if let Some(at) = self.layout.power
            && !matches!(self.power_state(&s.space), power::D0 | power::D3_HOT)
        {
            s.space.set(at + power::CONTROL, &[power::NO_SOFT_RESET as u8]);
        }
        let new = self.outputs(&s.space);
        self.interrupts.restore(&saved.vectors, saved.asserted);
        self.interrupts.configure(new.msix, new.held, new.pin_disabled);
        if let Some(own) = &saved.own {
            self.function.restore(own)?;
        }
        self.settle(&mut s);
        Ok(())
    }
}
