//! What the controller and the threads of its queues both reach.

use crate::counters::Counters;
use crate::errors::Errors;
use crate::shadow::Shadow;
use crate::signals::Signals;
use donjon_disk::Disk;
use donjon_memory::Ram;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct Shared {
    pub disk: Arc<Disk>,
    pub ram: Arc<Ram>,
    pub signals: Arc<Signals>,
    pub shadow: Arc<Shadow>,
    pub counters: Counters,
    pub errors: Errors,
    /// Volatile write cache enabled: writes are durable once a flush follows, else when they complete.
    pub write_cache: AtomicBool,
}

impl Shared {
    pub fn new(disk: Arc<Disk>, ram: &Arc<Ram>) -> Self {
        Self {
            disk,
            ram: ram.clone(),
            signals: Arc::default(),
            shadow: Arc::new(Shadow::new(ram)),
            counters: Counters::default(),
            errors: Errors::default(),
            write_cache: AtomicBool::new(true),
        }
    }
}
