//! Sizes as people write them.

use donjon_machine::MIN_MEMORY;

/// A number of bytes.
pub type Size = u64;

/// A guest memory size: whole 4 KiB pages, not less than the board needs.
pub fn memory(text: &str) -> Result<Size, String> {
    let size = parse(text)?;
    let min = MIN_MEMORY >> 20;
    if size < MIN_MEMORY {
        let bare = text.bytes().all(|b| b.is_ascii_digit());
        let hint = if bare {
            format!(" (did you mean {text}M?)")
        } else {
            String::new()
        };
        return Err(format!("a domain needs at least {min}M, Linux about 128M{hint}"));
    }
    if !size.is_multiple_of(4096) {
        return Err(format!(
            "memory comes in pages of 4096 bytes: {} would do",
            size.next_multiple_of(4096)
        ));
    }
    Ok(size)
}

/// Room for translated code: enough for a few hundred functions, and no more than a jump reaches over.
pub fn arena(text: &str) -> Result<Size, String> {
    match parse(text)? {
        size if (1 << 20..=1 << 30).contains(&size) => Ok(size),
        _ => Err("translated code gets 1M to 1G; 64M holds all that is hot in most guests".into()),
    }
}

/// `1024K`, `512M`, `2G`, `1T` (powers of 1024, `MiB` and lower case too), or bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || "not a size; write 512M, 2G, 524288K or a number of bytes".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib") {
        "" if unit.is_empty() => 0,
        "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("524288K", 512 << 20),
            ("1t", 1 << 40),
            ("64MiB", 64 << 20),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        assert_eq!(memory("536870912"), Ok(512 << 20));
    }

    #[test]
    fn the_arena_has_bounds() {
        assert_eq!(arena("1M"), Ok(1 << 20));
        assert_eq!(arena("1G"), Ok(1 << 30));
        for text in ["1023K", "16", "1025M", "0"] {
            assert!(arena(text).unwrap_err().contains("1M to 1G"), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in [
            "",
            "M",
            "1.5G",
            "-1",
            "5 M",
            "512X",
            "99999999999999999999",
            "99999999999T",
            "ib",
            "512MM",
        ] {
            assert!(memory(text).unwrap_err().contains("512M"), "{text}");
        }
        assert!(memory("512").unwrap_err().contains("did you mean 512M?"));
        assert!(memory("4M").unwrap_err().contains("at least 16M"));
        assert!(memory("33554433").unwrap_err().contains("33558528 would do"));
    }
}
