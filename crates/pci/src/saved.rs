//! Saving, restoring and resetting the bus with everything on it.

use crate::hotplug::Registers;
use crate::{Bus, node};
use donjon_devices::{Lifecycle, Migrate, Record, RestoreError, Saved};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::SeqCst;

#[derive(Serialize, Deserialize)]
struct State {
    address: u32,
    hotplug: Registers,
    /// In ascending order of their numbers.
    functions: Vec<node::Saved>,
}

impl Saved for State {
    const KIND: &'static str = "pci";
    const VERSION: u16 = 1;
}

/// One record has the bus and all functions on it. It is restored to a bus with the same devices in the same
/// slots. If a function does not accept its part, those before it have taken theirs: the machine is of no use
/// then.
impl Lifecycle for Bus {
    fn reset(&self) {
        self.address.store(0, SeqCst);
        *self.hotplug.lock() = Registers::default();
        self.unchanging(|nodes| {
            nodes.iter().for_each(|n| n.reset());
            self.assign_all(nodes);
        });
    }

    fn migrate(&self) -> Migrate {
        let functions = self.unchanging(|nodes| nodes.iter().map(|n| n.save()).collect());
        match functions {
            Ok(functions) => State {
                address: self.address.load(SeqCst),
                hotplug: self.hotplug.lock().clone(),
                functions,
            }
            .save(),
            Err(why) => Migrate::Refuse(why),
        }
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = State::open(record)?;
        if !state.hotplug.is_legal() {
            return Err(State::damaged("reserved hotplug bits are set"));
        }
        self.unchanging(|nodes| {
            let here: Vec<_> = nodes.iter().map(|n| n.number()).collect();
            let there: Vec<_> = state.functions.iter().map(|f| f.number).collect();
            if here != there {
                let what = format!("it has PCI functions {there:02x?}, this machine has {here:02x?}");
                return Err(State::damaged(what));
            }
            for (node, saved) in nodes.iter().zip(&state.functions) {
                node.check(saved).map_err(State::damaged)?;
            }
            for (node, saved) in nodes.iter().zip(&state.functions) {
                node.restore(saved)?;
            }
            Ok(())
        })?;
        self.address
            .store(crate::access::legal_address(state.address), SeqCst);
        *self.hotplug.lock() = state.hotplug;
        Ok(())
    }
}
