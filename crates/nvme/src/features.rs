//! Features (NVM Express Base 1.4 §5.21.1).

use crate::command::{ALL_NAMESPACES, Command, NAMESPACE};
use crate::status::Status;
use serde::{Deserialize, Serialize};

/// Feature identifiers.
mod id {
    pub const ARBITRATION: u8 = 0x01;
    pub const POWER_MANAGEMENT: u8 = 0x02;
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub const ERROR_RECOVERY: u8 = 0x05;
    pub const WRITE_CACHE: u8 = 0x06;
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    pub const COALESCING: u8 = 0x08;
    pub const VECTOR: u8 = 0x09;
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    pub const EVENTS: u8 = 0x0b;
}

/// Composite temperature in kelvins: a room's, as nothing here becomes warm.
pub const TEMPERATURE: u16 = 300;
/// Warning composite temperature threshold, and the default of the over-temperature feature.
pub const WARNING_TEMPERATURE: u16 = 343;

/// Asynchronous event configuration: bits 7:0 are critical warnings of the health log.
const TEMPERATURE_EVENTS: u32 = 1 << 1;
/// Namespace attribute notices.
const NAMESPACE_EVENTS: u32 = 1 << 8;

/// Which value Get Features is after (SEL).
mod select {
    pub const CURRENT: u32 = 0;
    pub const DEFAULT: u32 = 1;
    pub const SAVED: u32 = 2;
    pub const CAPABILITIES: u32 = 3;
}
/// What SEL 3 answers: the feature is of a namespace; it can be changed.
const OF_NAMESPACE: u32 = 1 << 1;
const CHANGEABLE: u32 = 1 << 2;

/// The values that the host has set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Features {
    arbitration: u32,
    power: u32,
    over_temperature: u16,
    under_temperature: u16,
    error_recovery: u32,
    pub write_cache: bool,
    coalescing: u32,
    /// Of each interrupt vector: coalescing disabled.
    vectors: Vec<bool>,
    write_atomicity: u32,
    events: u32,
    /// I/O queue pairs that there can be.
    queues: u16,
}

impl Features {
    /// The defaults, with `queues` I/O queue pairs and a vector for each and for the admin queue.
    pub fn new(queues: u16) -> Self {
        Self {
            arbitration: 0,
            power: 0,
            over_temperature: WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: 0,
            write_cache: true,
            coalescing: 0,
            // Vector 0 has no coalescing.
            vectors: (0..=queues).map(|v| v == 0).collect(),
            write_atomicity: 0,
            events: 0,
            queues,
        }
    }

    /// Whether they can be those of a controller with so many queues.
    pub fn is_sound(&self, queues: u16) -> bool {
        self.queues == queues && self.vectors.len() == usize::from(queues) + 1
    }

    /// Whether the temperature has reached a threshold.
    pub fn temperature_warning(&self) -> bool {
        TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature
    }

    /// Whether the host wants to be told of it.
    pub fn tells_temperature(&self) -> bool {
        self.events & TEMPERATURE_EVENTS != 0 && self.temperature_warning()
    }

    /// Whether the host wants to be told when the namespace changes.
    pub fn tells_namespace(&self) -> bool {
        self.events & NAMESPACE_EVENTS != 0
    }

    /// Get Features (§5.9).
    pub fn get(&self, c: &Command) -> Result<u32, Status> {
        let feature = c.dword(10) as u8;
        check_namespace(feature, c)?;
        match c.dword(10) >> 8 & 7 {
            select::CURRENT => self.value(feature, c),
            select::DEFAULT | select::SAVED => Self::new(self.queues).value(feature, c),
            select::CAPABILITIES => {
                self.value(feature, c)?;
                Ok(CHANGEABLE
                    | if feature == id::ERROR_RECOVERY {
                        OF_NAMESPACE
                    } else {
                        0
                    })
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn value(&self, feature: u8, c: &Command) -> Result<u32, Status> {
        Ok(match feature {
            id::ARBITRATION => self.arbitration,
            id::POWER_MANAGEMENT => self.power,
            id::TEMPERATURE_THRESHOLD => match threshold(c.dword(11)) {
                Some((_, false)) => self.over_temperature.into(),
                Some((_, true)) => self.under_temperature.into(),
                None => return Err(Status::INVALID_FIELD),
            },
            id::ERROR_RECOVERY => self.error_recovery,
            id::WRITE_CACHE => self.write_cache.into(),
            id::NUMBER_OF_QUEUES => self.number_of_queues(),
            id::COALESCING => self.coalescing,
            id::VECTOR => {
                let vector = c.dword(11) & 0xffff;
                let off = self.vectors.get(vector as usize).ok_or(Status::INVALID_FIELD)?;
                vector | u32::from(*off) << 16
            }
            id::WRITE_ATOMICITY => self.write_atomicity,
            id::EVENTS => self.events,
            _ => return Err(Status::INVALID_FIELD),
        })
    }

    /// Both numbers are zero-based.
    fn number_of_queues(&self) -> u32 {
        let n = u32::from(self.queues - 1);
        n | n << 16
    }

    /// Set Features (§5.21); with `queues_exist` their number cannot change any more.
    pub fn set(&mut self, c: &Command, queues_exist: bool) -> Result<u32, Status> {
        let (feature, value) = (c.dword(10) as u8, c.dword(11));
        check_namespace(feature, c)?;
        // Only features that there are can be refused for what is asked of them.
        self.value_exists(feature)?;
        if c.dword(10) >> 31 != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        match feature {
            id::ARBITRATION => self.arbitration = value & 0xffff_ff07,
            // There is one power state.
            id::POWER_MANAGEMENT if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            id::POWER_MANAGEMENT => self.power = value & 0xe0,
            id::TEMPERATURE_THRESHOLD => match threshold(value) {
                Some((kelvins, false)) => self.over_temperature = kelvins,
                Some((kelvins, true)) => self.under_temperature = kelvins,
                None => return Err(Status::INVALID_FIELD),
            },
            // Deallocated blocks can always be read.
            id::ERROR_RECOVERY if value & 1 << 16 != 0 => return Err(Status::INVALID_FIELD),
            id::ERROR_RECOVERY => self.error_recovery = value & 0xffff,
            id::WRITE_CACHE => self.write_cache = value & 1 != 0,
            id::NUMBER_OF_QUEUES => {
                if queues_exist {
                    return Err(Status::SEQUENCE_ERROR);
                }
                if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                    return Err(Status::INVALID_FIELD);
                }
                return Ok(self.number_of_queues());
            }
            // A recommendation (§7.5.1.2): interrupts are not delayed, since completions come in batches anyway.
            id::COALESCING => self.coalescing = value & 0xffff,
            id::VECTOR => {
                let vector = (value & 0xffff) as usize;
                let off = self.vectors.get_mut(vector).ok_or(Status::INVALID_FIELD)?;
                *off = value & 1 << 16 != 0;
            }
            id::WRITE_ATOMICITY => self.write_atomicity = value & 1,
            id::EVENTS => self.events = value & (0xff | NAMESPACE_EVENTS),
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    fn value_exists(&self, feature: u8) -> Result<(), Status> {
        let known = matches!(feature, id::ARBITRATION | id::POWER_MANAGEMENT)
            || (id::TEMPERATURE_THRESHOLD..=id::EVENTS).contains(&feature);
        if known { Ok(()) } else { Err(Status::INVALID_FIELD) }
    }
}

/// Error recovery is a feature of a namespace; the others leave the NSID out of account.
fn check_namespace(feature: u8, c: &Command) -> Result<(), Status> {
    if feature == id::ERROR_RECOVERY && c.nsid != NAMESPACE && c.nsid != ALL_NAMESPACES {
        return Err(Status::INVALID_NAMESPACE);
    }
    Ok(())
}

/// What double word 11 says of a temperature threshold: kelvins, and whether it is the lower one. There is one
/// sensor, the composite temperature.
fn threshold(value: u32) -> Option<(u16, bool)> {
    let (sensor, kind) = (value >> 16 & 15, value >> 20 & 3);
    (matches!(sensor, 0 | 15) && kind < 2).then_some((value as u16, kind == 1))
}
