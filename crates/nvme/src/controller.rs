//! The controller: its registers, its life, and the admin queue.

use crate::admin;
use crate::command::Completion;
use crate::completion::{CompletionQueue, CqState};
use crate::events::{Event, Events};
use crate::features::Features;
use crate::queues::{Queues, Wrong};
use crate::registers::{CAPABILITIES, Cc, VERSION, at, csts, half, set_half};
use crate::shared::Shared;
use crate::status::Status;
use crate::submission::{SqState, SubmissionQueue};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Instant;

/// The admin submission queue.
pub struct Admin {
    pub queue: SubmissionQueue,
    pub tail: Arc<AtomicU16>,
}

impl Admin {
    pub fn tail(&self) -> u16 {
        self.tail.load(SeqCst)
    }
}

pub struct Controller {
    pub shared: Arc<Shared>,
    pub queues: Arc<Queues>,
    pub cc: Cc,
    pub csts: u32,
    pub aqa: u32,
    pub asq: u64,
    pub acq: u64,
    /// While the controller is ready.
    pub admin: Option<Admin>,
    pub features: Features,
    pub events: Events,
    /// The namespace is in the changed namespace list.
    pub namespace_changed: bool,
    /// Shadow doorbell and EventIdx pages.
    pub shadow: Option<(u64, u64)>,
    /// The controller may reach memory.
    pub master: bool,
    pub since: Instant,
}

impl Controller {
    pub fn new(shared: &Arc<Shared>, queues: &Arc<Queues>) -> Self {
        Self {
            shared: shared.clone(),
            queues: queues.clone(),
            cc: Cc(0),
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            admin: None,
            features: Features::new(queues.count()),
            events: Events::default(),
            namespace_changed: false,
            shadow: None,
            master: false,
            since: Instant::now(),
        }
    }

    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            at::CAP..at::VS => half(CAPABILITIES, at::CAP, offset),
            at::VS => VERSION,
            at::INTMS | at::INTMC => self.shared.signals.masked(),
            at::CC => self.cc.0,
            at::CSTS => self.csts,
            at::AQA => self.aqa,
            at::ASQ..at::ACQ => half(self.asq, at::ASQ, offset),
            at::ACQ..0x38 => half(self.acq, at::ACQ, offset),
            // NSSR, the controller memory buffer and boot partitions are not there.
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            at::INTMS => self.shared.signals.mask(value, 0),
            at::INTMC => self.shared.signals.mask(0, value),
            at::CC => self.configure(Cc(value & Cc::MASK)),
            at::AQA => self.aqa = value & 0x0fff_0fff,
            at::ASQ..at::ACQ => set_half(&mut self.asq, at::ASQ, offset, value & low_mask(offset, at::ASQ)),
            at::ACQ..0x38 => set_half(&mut self.acq, at::ACQ, offset, value & low_mask(offset, at::ACQ)),
            _ => {}
        }
    }

    fn configure(&mut self, new: Cc) {
        let old = std::mem::replace(&mut self.cc, new);
        match (old.enabled(), new.enabled()) {
            (false, true) => self.enable(),
            (true, false) => self.disable(),
            _ => {}
        }
        if new.shutdown() != 0 && old.shutdown() != new.shutdown() {
            self.shut_down();
        }
    }

    fn enable(&mut self) {
        self.csts &= !csts::SHUTDOWN;
        if self.cc.is_supported() && self.make_admin_queues() {
            self.csts |= csts::READY;
        } else {
            tracing::warn!(
                "the guest's NVMe driver enables the controller with settings it does not support"
            );
            self.csts |= csts::FATAL;
        }
    }

    fn make_admin_queues(&mut self) -> bool {
        // Zero-based, 2 to 4096 entries.
        let (sq, cq) = ((self.aqa & 0xfff) as u16 + 1, (self.aqa >> 16) as u16 + 1);
        let submission = SqState {
            id: 0,
            cq: 0,
            size: sq,
            address: self.asq,
            head: 0,
        };
        let completion = CqState {
            id: 0,
            size: cq,
            address: self.acq,
            vector: Some(0),
            head: 0,
            tail: 0,
            phase: true,
        };
        self.adopt_admin(submission, 0) && self.adopt_completion(completion)
    }

    /// Takes an admin submission queue in use; `false` if it is not in RAM.
    pub fn adopt_admin(&mut self, state: SqState, tail: u16) -> bool {
        let tail = Arc::new(AtomicU16::new(tail));
        // Admin doorbells have no shadow (§7.13).
        self.admin =
            SubmissionQueue::new(&self.shared.ram, state, &tail, None).map(|queue| Admin { queue, tail });
        self.admin.is_some()
    }

    /// Takes a completion queue in use; `false` if it is not in RAM.
    pub fn adopt_completion(&self, state: CqState) -> bool {
        let Shared {
            ram, signals, shadow, ..
        } = &*self.shared;
        let shadow = (state.id != 0).then_some(shadow);
        let Some(queue) = CompletionQueue::new(ram, state, signals, shadow) else {
            return false;
        };
        self.queues.set_completion(state.id, Some(queue));
        true
    }

    /// Controller reset (§7.3.2): everything but the admin queue registers.
    fn disable(&mut self) {
        self.queues.clear();
        self.admin = None;
        self.shadow = None;
        self.shared.shadow.clear();
        self.shared.signals.reset();
        self.set_features(Features::new(self.queues.count()));
        self.events = Events::default();
        self.csts = 0;
    }

    pub fn set_features(&mut self, features: Features) {
        self.shared.write_cache.store(features.write_cache, SeqCst);
        self.features = features;
    }

    /// As at power-on. What the health log counts goes on.
    pub fn reset(&mut self) {
        self.disable();
        self.cc = Cc(0);
        (self.aqa, self.asq, self.acq) = (0, 0, 0);
        self.namespace_changed = false;
    }

    /// Normal or abrupt shutdown (§7.6.2): commands are finished, and what was written is made durable.
    fn shut_down(&mut self) {
        self.queues.stop_all();
        let image = self.shared.disk.image();
        if !self.shared.disk.read_only()
            && let Err(e) = image.flush()
        {
            tracing::error!(
                "what the guest wrote to {} may be lost: {e}",
                image.path().display()
            );
        }
        self.csts = self.csts & !csts::SHUTDOWN | csts::SHUTDOWN_COMPLETE;
    }

    /// Whether commands are taken.
    fn running(&self) -> bool {
        self.master && self.csts == csts::READY
    }

    pub fn bus_master(&mut self, enabled: bool) {
        self.master = enabled;
        if enabled {
            self.resume();
        } else {
            self.queues.stop_all();
        }
    }

    /// Goes on after a stop, if it is to.
    pub fn resume(&mut self) {
        if self.running() {
            let started = self.queues.start_all();
            self.check_served(started);
            self.run_admin();
        }
    }

    /// A queue that nobody can serve is fatal.
    fn check_served(&mut self, started: io::Result<()>) {
        if let Err(e) = started {
            tracing::error!("a disk's queue cannot be served: {e}");
            self.csts |= csts::FATAL;
        }
    }

    /// A write to a doorbell.
    pub fn admin_doorbell(&mut self, tail: u32) {
        let Some(admin) = &self.admin else { return };
        if tail >= admin.queue.state.size.into() {
            self.wrong_doorbell(Wrong::Value);
        } else {
            admin.tail.store(tail as u16, SeqCst);
            self.run_admin();
        }
    }

    pub fn wrong_doorbell(&mut self, wrong: Wrong) {
        let event = match wrong {
            Wrong::Register => Event::DoorbellRegister,
            Wrong::Value => Event::DoorbellValue,
        };
        self.raise(event);
    }

    /// Tells the host of an event, if it has asked and is not shut out.
    pub fn raise(&mut self, event: Event) {
        if self.admin.is_some() {
            self.events.raise(event);
            self.run_admin();
        }
    }

    /// Executes admin commands and tells of events, as far as the completion queue has room. The tail does not move
    /// meanwhile, so it ends.
    pub fn run_admin(&mut self) {
        let Some(completions) = self.queues.completion(0).filter(|_| self.running()) else {
            return;
        };
        let mut room = usize::from(completions.room());
        let mut answers = VecDeque::new();
        while room > 0 {
            if let Some(cid) = self.events.take_aborted() {
                answers.push_back(Completion::new(cid, Err(Status::ABORT_REQUESTED)));
                room -= 1;
                continue;
            }
            let Some(command) = self.admin.as_mut().and_then(|a| a.queue.pop()) else {
                break;
            };
            if let Some(answer) = admin::execute(self, &command) {
                answers.push_back(answer);
                room -= 1;
            }
        }
        while room > 0 {
            let Some((cid, result)) = self.events.deliver() else {
                break;
            };
            answers.push_back(Completion::new(cid, Ok(result)));
            room -= 1;
        }
        let head = self.admin.as_ref().map_or(0, |a| a.queue.state.head);
        completions.post(0, head, &mut answers);
    }

    /// The namespace has another size.
    pub fn namespace_changed(&mut self) {
        self.namespace_changed = true;
        if self.features.tells_namespace() {
            self.raise(Event::NamespaceChanged);
        }
    }
}

/// Queue addresses are those of pages.
fn low_mask(offset: u64, base: u64) -> u32 {
    if offset == base { !0xfff } else { !0 }
}
