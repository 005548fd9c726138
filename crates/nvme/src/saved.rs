//! What is saved of a controller.

use crate::command::Completion;
use crate::completion::{CompletionQueue, CqState};
use crate::controller::Controller;
use crate::counters::Counts;
use crate::errors::ErrorLog;
use crate::events::Events;
use crate::features::Features;
use crate::io::DEPTH;
use crate::prp::PAGE;
use crate::queues::Parked;
use crate::registers::{Cc, MAX_ENTRIES, csts};
use crate::submission::{SqState, SubmissionQueue};
use donjon_devices::RestoreError;
use donjon_devices::state::Saved;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// A submission queue at rest.
#[derive(Serialize, Deserialize)]
struct SavedSq {
    state: SqState,
    tail: u16,
    backlog: Vec<Completion>,
}

/// The whole controller. No requests are under way.
#[derive(Serialize, Deserialize)]
pub struct SavedNvme {
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    interrupt_mask: u32,
    /// State and tail of the admin submission queue.
    admin: Option<(SqState, u16)>,
    submission: Vec<SavedSq>,
    completion: Vec<CqState>,
    features: Features,
    events: Events,
    namespace_changed: bool,
    shadow: Option<(u64, u64)>,
    counts: Counts,
    errors: ErrorLog,
}

impl Saved for SavedNvme {
    const KIND: &'static str = "nvme";
    const VERSION: u16 = 1;
}

impl Controller {
    /// Everything, with the queues at rest for the moment.
    pub fn save(&mut self) -> SavedNvme {
        self.queues.stop_all();
        let park = |(state, tail, backlog): Parked| SavedSq {
            state,
            tail,
            backlog: backlog.into(),
        };
        let shared = &self.shared;
        let saved = SavedNvme {
            cc: self.cc.0,
            csts: self.csts,
            aqa: self.aqa,
            asq: self.asq,
            acq: self.acq,
            interrupt_mask: shared.signals.masked(),
            admin: self.admin.as_ref().map(|a| (a.queue.state, a.tail())),
            submission: self.queues.parked().into_iter().map(park).collect(),
            completion: self.queues.completions().iter().map(|c| c.state()).collect(),
            features: self.features.clone(),
            events: self.events.clone(),
            namespace_changed: self.namespace_changed,
            shadow: self.shadow,
            counts: shared.counters.get(),
            errors: shared.errors.get(),
        };
        self.resume();
        saved
    }

    /// Replaces everything. What cannot be is refused before anything is changed.
    pub fn restore(&mut self, saved: SavedNvme) -> Result<(), RestoreError> {
        self.check(&saved).map_err(SavedNvme::damaged)?;
        self.reset();
        self.cc = Cc(saved.cc);
        self.csts = saved.csts;
        (self.aqa, self.asq, self.acq) = (saved.aqa, saved.asq, saved.acq);
        let shared = self.shared.clone();
        shared.signals.mask(saved.interrupt_mask, 0);
        self.shadow = saved.shadow;
        if let Some((doorbells, events)) = saved.shadow {
            shared.shadow.set(doorbells, events);
        }
        for state in saved.completion {
            self.adopt_completion(state);
        }
        for queue in self.queues.completions() {
            queue.restore_pin();
        }
        if let Some((state, tail)) = saved.admin {
            self.adopt_admin(state, tail);
        }
        for SavedSq { state, tail, backlog } in saved.submission {
            self.queues.insert((state, tail, backlog.into()));
        }
        self.set_features(saved.features);
        self.events = saved.events;
        self.namespace_changed = saved.namespace_changed;
        shared.counters.set(&saved.counts);
        shared.errors.set(saved.errors);
        self.resume();
        Ok(())
    }

    fn check(&self, saved: &SavedNvme) -> Result<(), &'static str> {
        let count = self.queues.count();
        if !saved.features.is_sound(count) {
            return Err("it has another number of queues");
        }
        if !saved.events.is_sound() || !saved.errors.is_sound() {
            return Err("it has more events than there can be");
        }
        let known = csts::READY | csts::FATAL | csts::SHUTDOWN;
        if saved.cc & !Cc::MASK != 0 || saved.csts & !known != 0 {
            return Err("its registers have reserved bits");
        }
        let admin_queue = saved.completion.iter().any(|c| c.id == 0);
        if saved.csts & csts::READY != 0 && !(saved.admin.is_some() && admin_queue) {
            return Err("it is ready without admin queues");
        }
        let (ram, signals) = (&self.shared.ram, &self.shared.signals);
        let is_page = |at| ram.offset_of(at, PAGE as usize).is_ok() && at.is_multiple_of(PAGE);
        if saved.shadow.is_some_and(|(a, b)| !is_page(a) || !is_page(b)) {
            return Err("its shadow doorbells are not in RAM");
        }
        let mut completions = HashSet::new();
        for state in &saved.completion {
            let fits = state.id <= count
                && state.size <= most_entries(state.id)
                && state.head < state.size
                && state.tail < state.size
                && state.vector.is_none_or(|v| v <= count)
                && completions.insert(state.id);
            if !fits || CompletionQueue::new(ram, *state, signals, None).is_none() {
                return Err("a completion queue cannot be");
            }
        }
        let mut submissions = HashSet::new();
        let admin = saved.admin.iter().map(|(state, tail)| (state, *tail, 0));
        let io = saved
            .submission
            .iter()
            .map(|s| (&s.state, s.tail, s.backlog.len()));
        for (n, (state, tail, backlog)) in admin.chain(io).enumerate() {
            let is_admin = n == 0 && saved.admin.is_some();
            let fits = (state.id == 0) == is_admin
                && (state.cq == 0) == is_admin
                && state.id <= count
                && completions.contains(&state.cq)
                && state.size <= most_entries(state.id)
                && state.head < state.size
                && tail < state.size
                && backlog <= 2 * DEPTH
                && submissions.insert(state.id);
            if !fits || SubmissionQueue::new(ram, *state, &Arc::default(), None).is_none() {
                return Err("a submission queue cannot be");
            }
        }
        Ok(())
    }
}

/// The admin queue may have more entries than I/O queues.
fn most_entries(id: u16) -> u16 {
    if id == 0 { 4096 } else { MAX_ENTRIES }
}
