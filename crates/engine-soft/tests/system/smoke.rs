use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

#[test]
fn each_mode_runs_and_traps() {
    for mut m in [Machine::long(), Machine::protected()] {
        m.code(CODE, |a| {
            a.mov(eax, 5)?;
            a.hlt()
        });
        m.halts();
        assert_eq!(m.reg(Rax), 5);
        m.user();
        let c = m.code(USER_CODE, |a| a.hlt());
        let t = m.faults(GP, 0);
        assert_eq!((t.rip, t.ss, t.rsp), (c.at[0], USER_DATA, USER_STACK));
    }
}
