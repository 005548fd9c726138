//! The boot-file loaders on any bytes: they load or refuse, and never panic, hang or leave guest RAM.
#![no_main]

use donjon_machine::boot::{self, BootSource, Image, Role};
use donjon_memory::Ram;
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fuzz_target!(|bytes: &[u8]| {
    static RAM: OnceLock<Ram> = OnceLock::new();
    let ram = RAM.get_or_init(|| Ram::new(16 << 20).expect("16 MiB of guest RAM"));
    // The first byte says whether there is an initrd.
    let Some((&first, kernel)) = bytes.split_first() else {
        return;
    };
    let Ok(kernel) = Image::from_bytes(Role::Kernel, "kernel", kernel) else {
        return;
    };
    let initrd =
        (first & 1 == 1).then(|| Image::from_bytes(Role::Initrd, "initrd", [7; 5000]).expect("not empty"));
    let source = BootSource {
        kernel,
        initrd,
        command_line: "console=ttyS0".into(),
    };
    match boot::load(&source, ram, 0xe_0000) {
        Ok(state) => assert!(
            ram.offset(state.rip).is_some(),
            "entry {:#x} is not RAM",
            state.rip
        ),
        // The texts must hold for whatever the file says.
        Err(e) => drop((e.to_string(), e.fix())),
    }
});
