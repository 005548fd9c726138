//! One case again, or one instruction on many states.

use crate::case::{Case, CodeBytes, Mode};
use crate::compare::{compare, end_name};
use crate::forms::Form;
use crate::generate::{EPOCH, Generator};
use crate::guest::EngineRunner;
use crate::native::NativeRunner;
use crate::report::{disassemble, report};
use donjon_engine::Engine;
use iced_x86::{Decoder, DecoderOptions};

/// How many states an instruction given as bytes is run on.
const STATES: u64 = 2000;

/// Runs `what` (SEED:INDEX or hex bytes) and prints what came out. True if both agree.
pub fn run(
    engine: &dyn Engine,
    model: &str,
    forms: &[Form],
    what: &str,
    bits: Option<u32>,
) -> Result<bool, String> {
    let (seed, cases) = match what.split_once(':') {
        Some((seed, index)) => {
            let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
            let (seed, index) = (number(seed)?, number(index)?);
            (seed, vec![Generator::new(seed, forms).case(index)])
        }
        None => (0, from_bytes(forms, &hex(what)?, bits.unwrap_or(64))?),
    };
    let generator = Generator::new(seed, forms);
    let mut native = NativeRunner::new().map_err(|e| e.to_string())?;
    let mut guest = EngineRunner::new(engine, model).map_err(|e| e.to_string())?;
    let mut failed = 0;
    for case in &cases {
        let b = generator.background(case.index / EPOCH);
        native.set_background(&b.scratch, &b.read_only);
        guest.set_background(&b);
        let got = guest.run(case).map_err(|e| e.to_string())?;
        let expected = native
            .run(std::slice::from_ref(case))
            .map_err(|e| e.to_string())?
            .remove(0);
        let Ok(expected) = expected else {
            return Err(format!("{} kills its process: {expected:?}", disassemble(case)));
        };
        let differences = compare(case, &b.scratch, &expected, &got);
        if !differences.is_empty() || cases.len() == 1 {
            failed += !differences.is_empty() as u64;
            if failed <= 3 {
                println!(
                    "{}",
                    report(seed, "", case, &b.scratch, Some(&expected), &differences).text
                );
            }
        }
        if cases.len() == 1 {
            println!(
                "processor: {}\nengine:    {}",
                end_name(&expected.end),
                end_name(&got.end)
            );
            println!("{:x?}\n{:x?}", expected.after, expected.memory);
        }
    }
    println!("{} of {} agree", cases.len() as u64 - failed, cases.len());
    Ok(failed == 0)
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return Err(format!("{text:?} is neither SEED:INDEX nor bytes in hex"));
    }
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|e| format!("{text:?}: {e}")))
        .collect()
}

/// The instruction in the states of random cases of its form. Its memory operand then mostly leads nowhere,
/// unless a register happens to point into the scratch area.
fn from_bytes(forms: &[Form], bytes: &[u8], bits: u32) -> Result<Vec<Case>, String> {
    let mode = Mode::ALL
        .into_iter()
        .find(|m| m.bits() == bits)
        .ok_or("the mode is 64, 32 or 16")?;
    let code = Decoder::new(bits, bytes, DecoderOptions::NONE).decode().code();
    let of: Vec<Form> = forms
        .iter()
        .filter(|f| f.mode == mode && f.code == code && f.runs())
        .copied()
        .collect();
    let of = if of.is_empty() {
        forms.iter().filter(|f| f.mode == mode).copied().collect()
    } else {
        of
    };
    let generator = Generator::new(0, &of);
    if bytes.len() > 15 {
        return Err("an instruction has at most 15 bytes".into());
    }
    Ok((0..STATES)
        .map(|i| {
            let mut case = generator.case(i);
            let first = &case.program[0];
            let way_out = &first.bytes()[case.length..];
            // The jump behind the instruction is relative in 64-bit mode only.
            let next = first.address + bytes.len() as u64;
            let mut code = bytes.to_vec();
            if mode == Mode::Long {
                code.push(0xe9);
                code.extend((crate::layout::STUB_FALL.wrapping_sub(next + 5) as u32).to_le_bytes());
            } else {
                code.extend(way_out);
            }
            case.program[0] = CodeBytes::new(first.address, &code);
            case.length = bytes.len();
            case
        })
        .collect())
}
