//! The translator where there is none: on hosts that are not x86-64 every block is interpreted.

use crate::cpu::{Cpu, R};
use crate::trace::CodeTrace;
use donjon_engine::TranslatorStatistics;
use donjon_memory::Ram;
use std::convert::Infallible;
use std::sync::Arc;

/// Nothing: there is no [`Translator`] to come back from.
pub(crate) enum After {
    Cold,
    One,
    Attend,
    Go,
    Done(R),
}

/// No privilege that translated code could run with.
#[derive(Clone, Copy)]
pub(crate) enum Mode {}

/// Never made.
pub(crate) struct Translator {
    pub threshold: u16,
    pub apart: bool,
    never: Infallible,
}

impl Translator {
    pub fn new(_: Arc<Ram>, _: usize, _: u16) -> Option<Self> {
        None
    }

    pub fn mode(_: &Cpu) -> Option<Mode> {
        None
    }

    pub fn run(&mut self, _: &mut Cpu, _: usize, _: Mode, _: u32) -> Option<After> {
        match self.never {}
    }

    pub fn run_counted(&mut self, _: &mut Cpu, _: usize, _: Mode, _: u32) -> Option<(After, u64)> {
        match self.never {}
    }

    pub fn run_accounted(&mut self, _: &mut Cpu, _: usize, _: Mode, _: u32) -> Option<(After, u64)> {
        match self.never {}
    }

    pub fn translate(&mut self, _: &mut Cpu, _: usize, _: Mode, _: impl FnMut(usize) -> bool) -> bool {
        match self.never {}
    }

    pub fn resets(&self) -> u64 {
        match self.never {}
    }

    pub fn trace(&mut self, _: Arc<dyn CodeTrace>) {
        match self.never {}
    }

    pub fn statistics(&self, _: &Cpu) -> TranslatorStatistics {
        match self.never {}
    }
}

/// What would be kept for translated code.
#[derive(Default)]
pub(crate) struct Direct {
    pub base: u64,
    pub stale: Stale,
    pub counts: bool,
}

/// Translations that it would have to drop.
#[derive(Default)]
pub(crate) struct Stale {
    pub all: bool,
    pub local: bool,
}

impl Direct {
    pub fn note_large(&mut self, _: u64, _: u8) {}
    pub fn stale_page(&mut self, _: u64) {}
}

/// What keeps code from being translated on this host.
pub(crate) fn obstacle() -> Option<String> {
    Some("the host is not x86-64".into())
}
