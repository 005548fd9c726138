//! Two processors: locked operations and memory ordering (Intel SDM vol. 3A §9.1, §9.2).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::CpuState;
use donjon_x86::Gpr::*;
use iced_x86::code_asm::*;

/// Both processors of a machine at the same code, each with a stack of its own.
fn both(m: &Machine) -> [CpuState; 2] {
    let first = m.state.clone();
    let mut second = first.clone();
    second.gpr[Rsp as usize] = USER_STACK;
    second.gpr[Rdi as usize] = 1; // who am I
    [first, second]
}

/// §9.1.2.2: locked read-modify-writes lose nothing, aligned, over a cache line, over a page, and over two
/// pages whose frames are apart.
#[test]
fn locked_counters() {
    const ROUNDS: u64 = 20_000;
    let far = 0x1234_5678_9000;
    let bodies: [(&[u8], u64); 5] = [
        (&[0xf0, 0x48, 0x83, 0x03, 0x01], ROUNDS * 2), // lock add qword [rbx], 1
        (&[0xf0, 0x48, 0xff, 0x03], ROUNDS * 2),       // lock inc qword [rbx]
        (&[0xba, 1, 0, 0, 0, 0xf0, 0x48, 0x0f, 0xc1, 0x13], ROUNDS * 2), // mov edx, 1; lock xadd [rbx], rdx
        // again: mov rax, [rbx]; lea rdx, [rax + 1]; lock cmpxchg [rbx], rdx; jne again
        (
            &[
                0x48, 0x8b, 0x03, 0x48, 0x8d, 0x50, 0x01, 0xf0, 0x48, 0x0f, 0xb1, 0x13, 0x75, 0xf2,
            ],
            ROUNDS * 2,
        ),
        // lock sub of minus one, at 32 bits
        (&[0xf0, 0x83, 0x2b, 0xff], ROUNDS * 2),
    ];
    for (body, want) in bodies {
        for at in [DATA, DATA + 0x3d, DATA + 0xffc, far + 0xffd] {
            let mut m = Machine::long_with(2);
            m.map(far, FREE | P | RW);
            m.map(far + 0x1000, (FREE + 0x5000) | P | RW);
            // mov ecx, ROUNDS; body; dec ecx; jnz body; hlt
            let mut code = vec![0xb9];
            code.extend((ROUNDS as u32).to_le_bytes());
            code.extend(body);
            code.extend([0xff, 0xc9, 0x75, (-(body.len() as i8) - 4) as u8, 0xf4]);
            m.write(CODE, &code);
            m.set(Rbx, at);
            let states = both(&m);
            m.run_all(&states);
            let got = if at < far {
                m.read64(at)
            } else {
                m.read(FREE + 0xffd, 3) | m.read(FREE + 0x5000, 5) << 24
            };
            let got = if body == bodies[4].0 {
                got & 0xffff_ffff
            } else {
                got
            };
            assert_eq!(got, want, "{body:x?} at {at:x}");
        }
    }
}

/// Vol. 2A, BTS: a spin lock made of LOCK BTS, and one of XCHG, guards a plain counter.
#[test]
fn spin_locks() {
    const ROUNDS: u32 = 5000;
    for bts in [true, false] {
        let mut m = Machine::long_with(2);
        m.code(CODE, |a| {
            let (mut top, mut got) = (a.create_label(), a.create_label());
            a.mov(ecx, ROUNDS)?;
            a.set_label(&mut top)?;
            if bts {
                a.lock().bts(dword_ptr(DATA), 5)?;
                a.jnc(got)?;
            } else {
                a.mov(eax, 1)?;
                a.xchg(dword_ptr(DATA), eax)?;
                a.test(eax, eax)?;
                a.jz(got)?;
            }
            a.pause()?;
            a.jmp(top)?;
            a.set_label(&mut got)?;
            a.mov(rax, qword_ptr(DATA + 64))?;
            a.inc(rax)?;
            a.mov(qword_ptr(DATA + 64), rax)?;
            a.mov(dword_ptr(DATA), 0)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            a.hlt()
        });
        let states = both(&m);
        m.run_all(&states);
        assert_eq!(m.read64(DATA + 64), ROUNDS as u64 * 2);
    }
}

/// CMPXCHG16B keeps two halves together.
#[test]
fn sixteen_byte_exchanges() {
    const ROUNDS: u32 = 10_000;
    let mut m = Machine::long_with(2);
    m.code(CODE, |a| {
        let (mut top, mut again) = (a.create_label(), a.create_label());
        a.mov(esi, ROUNDS)?;
        a.set_label(&mut top)?;
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(rdx, qword_ptr(DATA + 8))?;
        a.set_label(&mut again)?;
        a.lea(rbx, qword_ptr(rax + 1))?;
        a.lea(rcx, qword_ptr(rdx - 1))?;
        a.lock().cmpxchg16b(xmmword_ptr(DATA))?;
        a.jne(again)?;
        a.dec(esi)?;
        a.jnz(top)?;
        a.hlt()
    });
    let states = both(&m);
    m.run_all(&states);
    let n = ROUNDS as u64 * 2;
    assert_eq!((m.read64(DATA), m.read64(DATA + 8)), (n, n.wrapping_neg()));
}

const X: u64 = DATA;
const Y: u64 = DATA + 0x100;
const RESULTS: u64 = FREE;

/// §9.2.3.4, §9.2.5: store buffering. With a fence between its store and its load no pair of processors
/// reads two zeros; MFENCE, a locked instruction, XCHG and CPUID all are fences.
#[test]
fn store_buffering() {
    const ROUNDS: u64 = 5000;
    let mfence: &[u8] = &[0x0f, 0xae, 0xf0];
    let locked: &[u8] = &[0xf0, 0x83, 0x0c, 0x24, 0x00]; // lock or dword [rsp], 0
    let xchg: &[u8] = &[0x87, 0x54, 0x24, 0xf8]; // xchg [rsp - 8], edx
    let cpuid: &[u8] = &[0x31, 0xc0, 0x53, 0x51, 0x0f, 0xa2, 0x59, 0x5b];
    for fence in [mfence, locked, xchg, cpuid] {
        let mut m = Machine::long_with(2);
        // Each round has its own pair of variables X[i], Y[i] on lines of their own. R12 and R13 point at
        // the one to store and the one to load, R14 at the results. Before each round both processors load
        // what they will load again, so that the second load is quick and the store slow, and meet.
        m.code(CODE, |a| {
            let (mut top, mut wait, mut meet, mut go) = (
                a.create_label(),
                a.create_label(),
                a.create_label(),
                a.create_label(),
            );
            a.xor(ebp, ebp)?;
            a.set_label(&mut top)?;
            a.mov(eax, dword_ptr(r13))?;
            a.lea(r9, qword_ptr(rbp + rbp + 2))?;
            a.lock().inc(qword_ptr(DATA - 0x800))?;
            a.set_label(&mut wait)?;
            a.mov(r10d, 2000)?;
            a.set_label(&mut meet)?;
            a.cmp(qword_ptr(DATA - 0x800), r9)?;
            a.jae(go)?;
            a.dec(r10d)?;
            a.jnz(meet)?;
            a.pause()?;
            a.jmp(wait)?;
            a.set_label(&mut go)?;
            a.mov(dword_ptr(r12), 1)?;
            a.db(fence)?;
            a.mov(eax, dword_ptr(r13))?;
            a.mov(dword_ptr(r14 + rbp * 4), eax)?;
            a.add(r12, 64)?;
            a.add(r13, 64)?;
            a.inc(rbp)?;
            a.cmp(rbp, ROUNDS as i32)?;
            a.jne(top)?;
            a.hlt()
        });
        let (x, y) = (FREE + 0x10_0000, FREE + 0x50_0000);
        let mut states = both(&m);
        for (s, (store, load, results)) in states
            .iter_mut()
            .zip([(x, y, RESULTS), (y, x, RESULTS + 0x8_0000)])
        {
            s.gpr[R12 as usize] = store;
            s.gpr[R13 as usize] = load;
            s.gpr[R14 as usize] = results;
        }
        m.run_all(&states);
        for i in 0..ROUNDS {
            let (a, b) = (m.read32(RESULTS + i * 4), m.read32(RESULTS + 0x8_0000 + i * 4));
            assert!(
                a | b != 0,
                "round {i} after {fence:x?}: both processors read the old value"
            );
        }
    }
}

/// §9.2.2: stores are seen in program order, loads are made in program order (message passing).
#[test]
fn message_passing() {
    const ROUNDS: i32 = 100_000;
    let mut m = Machine::long_with(2);
    m.code(CODE, |a| {
        let mut top = a.create_label();
        a.mov(eax, 1)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(X), eax)?;
        a.mov(dword_ptr(Y), eax)?;
        a.inc(eax)?;
        a.cmp(eax, ROUNDS)?;
        a.jne(top)?;
        a.hlt()
    });
    // Y first, then X: X can only be newer. R8 counts the times it is not.
    m.code(USER_CODE, |a| {
        let (mut top, mut good) = (a.create_label(), a.create_label());
        a.xor(r8d, r8d)?;
        a.set_label(&mut top)?;
        a.mov(eax, dword_ptr(Y))?;
        a.mov(ebx, dword_ptr(X))?;
        a.cmp(ebx, eax)?;
        a.jae(good)?;
        a.inc(r8)?;
        a.set_label(&mut good)?;
        a.cmp(eax, ROUNDS - 1)?;
        a.jne(top)?;
        a.hlt()
    });
    let [first, mut second] = both(&m);
    second.rip = USER_CODE;
    let end = m.run_all(&[first, second]);
    assert_eq!(end[1].gpr[R8 as usize], 0);
}

/// §4.8, §9.1.2.1: both processors set accessed and dirty bits of the same entries, losing none.
#[test]
fn accessed_and_dirty_bits_from_two_sides() {
    let base = 0x1234_0000_0000;
    let mut m = Machine::long_with(2);
    for n in 0..512 {
        m.map(base + n * 0x1000, (FREE + n * 0x1000) | P | RW);
    }
    m.code(CODE, |a| {
        let mut top = a.create_label();
        a.mov(rbx, base)?;
        a.mov(ecx, 512)?;
        a.set_label(&mut top)?;
        a.lock().inc(dword_ptr(rbx))?;
        a.add(rbx, 0x1000)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    let states = both(&m);
    m.run_all(&states);
    for n in 0..512 {
        let at = m.entry(base + n * 0x1000, 12);
        assert_eq!(m.read64(at), (FREE + n * 0x1000) | P | RW | A | D);
        assert_eq!(m.read32(FREE + n * 0x1000), 2);
    }
}
