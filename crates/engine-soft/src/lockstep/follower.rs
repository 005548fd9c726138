//! The interpreter's side of a round.

use super::tail::Tail;
use crate::cpu::{R, Stop};
use crate::vcpu::SoftVcpu;
use std::sync::atomic::Ordering;

/// Runs `count` instructions, and then what the leader did not finish if it ended in `led`. What the last
/// instruction came to, or how the follower went another way.
#[inline]
pub(super) fn follow(vcpu: &mut SoftVcpu, tail: &mut Tail, count: u64, led: R) -> Result<R, String> {
    let unfinished = matches!(led, Err(Stop::Fault | Stop::Again)) as u64;
    let mut left = count + unfinished;
    let mut last = Ok(());
    while left > 0 {
        let (before, rip) = (vcpu.cpu.instructions, vcpu.cpu.rip());
        // Attention was looked at by the leader, so nothing is held off any more.
        let shadow = std::mem::take(&mut vcpu.cpu.shadow);
        last = if shadow || !vcpu.cpu.is64() {
            vcpu.block(true)
        } else {
            some(vcpu, left)
        };
        let done = vcpu.cpu.instructions - before;
        tail.add(rip, done);
        left -= done;
        if !matches!(last, Ok(()) | Err(Stop::EndBlock)) {
            let finished = !matches!(last, Err(Stop::Fault | Stop::Again));
            left -= !finished as u64;
            break;
        }
    }
    if left > 0 {
        return Err(format!(
            "the leader retired {count} instructions and came to {led:?}, the follower came to {last:?} with {left} to go"
        ));
    }
    Ok(last)
}

/// Runs at most `most` instructions of a block of 64-bit code.
#[inline]
fn some(vcpu: &mut SoftVcpu, most: u64) -> R {
    let SoftVcpu { cpu, blocks, ram, .. } = vcpu;
    let run = blocks.at(cpu, ram)?;
    let ops = &run.ops[..run.ops.len().min(most as usize)];
    match run.at {
        Some(at) => {
            let generation = ram.code().cell(at);
            SoftVcpu::execute(cpu, ops, || generation.load(Ordering::Relaxed) == run.generation)
        }
        None => SoftVcpu::execute(cpu, ops, || true),
    }
}
