use super::*;

fn members(bytes: &[u8]) -> Result<Vec<Header>, crate::Error> {
    let mut reader = bytes;
    let mut archive = Archive::new(&mut reader);
    let mut found = Vec::new();
    while let Some(header) = archive.next()? {
        found.push(header);
    }
    Ok(found)
}

/// A header block of GNU's kind.
fn block(kind: u8, name: &[u8], size: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    for (at, len) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
        block[at..at + len - 1].fill(b'0');
    }
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn content(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
    padded
}

fn error(bytes: &[u8]) -> String {
    members(bytes).expect_err("refused").to_string()
}

#[test]
fn numbers_are_octal_or_binary() {
    assert_eq!(block::number(b"0000644\0"), Ok(0o644));
    assert_eq!(block::number(b"   644 \0"), Ok(0o644));
    assert_eq!(block::number(b"\0\0\0\0"), Ok(0));
    assert_eq!(block::number(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Ok(258));
    assert_eq!(block::number(&[0xff; 12]), Ok(-1));
    assert!(block::number(b"12a\0").is_err());
    assert!(block::number(&[0x8f; 12]).is_err());
}

#[test]
fn pax_times_have_signs_and_fractions() {
    let time = |text: &str| {
        let mut extensions = Extensions::default();
        let record = format!(" mtime={text}\n");
        let length = record.len() + 2;
        extensions
            .parse(format!("{length}{record}").as_bytes())
            .map(|()| extensions.mtime)
    };
    let is = |seconds, nanoseconds| Ok(Some(Timestamp { seconds, nanoseconds }));
    assert_eq!(time("1.5"), is(1, 500_000_000));
    assert_eq!(time("-1.25"), is(-2, 750_000_000));
    assert_eq!(time("12.1234567891"), is(12, 123_456_789));
    assert!(time("1.x").is_err());
    assert!(time("99999999999999999999").is_err());
}

#[test]
fn long_names_of_gnu_and_pax() {
    let long = vec![b'x'; 3000];
    let gnu = [
        block(b'L', b"././@LongLink", 3001),
        content(&[&long[..], b"\0"].concat()),
        block(b'0', b"y", 0),
    ];
    assert_eq!(members(&gnu.concat()).expect("read")[0].path, long);
    let record = b"13 path=\xff\xfea/\n";
    let pax = [block(b'x', b"pax", 13), content(record), block(b'5', b"y", 0)];
    assert_eq!(members(&pax.concat()).expect("read")[0].path, b"\xff\xfea/");
}

#[test]
fn damage_is_told_with_its_place() {
    let good = block(b'0', b"a", 0);
    let mut bad = good.clone();
    bad[0] = b'b';
    assert_eq!(
        error(&bad),
        "the tar archive is damaged at offset 512: a header's checksum is wrong"
    );
    assert!(error(&good[..300]).ends_with("it ends in the middle"));
    assert!(error(&block(b'0', b"a", 1)).ends_with("it ends in the middle"));
    assert!(error(&block(b'V', b"a", 0)).ends_with("it has a member of an unknown type"));
    assert!(error(&block(b'x', b"a", 1 << 21)).ends_with("an extended header is too large"));
    assert!(
        error(&[block(b'L', b"a", 2), content(b"b\0")].concat())
            .ends_with("it ends after an extended header")
    );
    assert!(
        error(&[vec![0; BLOCK], good.clone()].concat()).ends_with("a lone block of zeroes is in the middle")
    );
    // Behind two there may be anything.
    let ended = [good, vec![0; 2 * BLOCK], vec![7; BLOCK]].concat();
    assert_eq!(members(&ended).expect("read").len(), 1);
}

#[test]
fn maps_of_sparse_files_must_fit() {
    let sparse = |map: &[(u64, u64)], size: u64, stored: usize| {
        let mut block = block(b'S', b"a", stored);
        for (at, (offset, len)) in map.iter().enumerate() {
            block[386 + at * 24..][..24].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
        }
        block[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
        seal(&mut block);
        members(&[block, content(&vec![1; stored])].concat())
    };
    let good = sparse(&[(512, 512), (4096, 100)], 5000, 612).expect("read");
    assert_eq!(
        (good[0].real_size, &good[0].runs[..]),
        (5000, &[(512, 512), (4096, 100)][..])
    );
    for bad in [
        sparse(&[(512, 512), (600, 100)], 5000, 612),
        sparse(&[(512, 512), (4096, 1000)], 5000, 1512),
        sparse(&[(512, 512)], 5000, 612),
    ] {
        assert!(bad.expect_err("refused").to_string().contains("sparse file"));
    }
}
