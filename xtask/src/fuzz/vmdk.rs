//! Inputs to start from for the target `vmdk`, see fuzz/src/vmdk.rs: steps, an image (900) and a file beside it (901).

/// Bytes of a grain.
const GRAIN: usize = 4096;
const HEAD: &str =
    "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"custom\"\n";

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let text = format!("{HEAD}RW 20 SPARSE \"901\"\nRW 3 ZERO\nRW 5 FLAT \"901\" 2\nRW 1 VMFS \"900\"\n");
    let mut embedded = header(1, 0);
    embedded[12] = 0;
    embedded.extend(text.as_bytes());
    let images = [
        ("sparse", sparse(false), vec![]),
        ("stream", sparse(true), vec![]),
        ("split", text.into_bytes(), sparse(false)),
        ("embedded", embedded, sparse(true)),
    ];
    let steps: [(&str, &[u8]); 2] = [
        ("read", b"\x09\0\0\xff\0\x02\xff\x01\x04\xff"),
        ("many", b"\x0c\0\x01\x40\0\x02\x80\x01\0\x20\x01\x03\xff"),
    ];
    let mut seeds = vec![];
    for (name, image, extent) in images {
        let len = (image.len() as u16).to_le_bytes();
        for (steps_name, steps) in steps {
            let seed = [steps, &len, &image, &extent].concat();
            seeds.push((format!("{name}-{steps_name}"), seed));
        }
    }
    seeds
}

/// Three grains, tables of two entries, a descriptor of one sector behind the header.
fn header(flags: u32, directory: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"KDMV\x01");
    put(8, &flags.to_le_bytes());
    for (at, number) in [(12, 24), (20, 8), (28, 1), (36, 1), (44, 2), (64, 2)] {
        put(at, &[number]);
    }
    put(56, &directory.to_le_bytes());
    put(73, b"\n \r\n");
    put(77, &[u8::from(flags >> 16 != 0)]);
    bytes
}

/// The first grain has data, the second is zeroes, the third has data or, in a stream, is not there.
fn sparse(stream: bool) -> Vec<u8> {
    let sector = |numbers: &[u32]| {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    };
    let mut text = HEAD.as_bytes().to_vec();
    text.resize(512, 0);
    if !stream {
        let tables = [sector(&[3, 4]), sector(&[5, 1]), sector(&[6, 0])].concat();
        // The grains overlap.
        let grains = vec![0x55; GRAIN + 512];
        return [header(5, 2), text, tables, grains].concat();
    }
    // A stored deflate block of as many zeroes as the grain has (RFC 1950, RFC 1951).
    let mut packed = b"\x78\x01\x01\x00\x10\xff\xef".to_vec();
    packed.extend([0; GRAIN]);
    packed.extend((GRAIN as u32).rotate_left(16).wrapping_add(1).to_be_bytes());
    let mut grain = [&[0; 8][..], &(packed.len() as u32).to_le_bytes(), &packed].concat();
    grain.resize(grain.len().next_multiple_of(512), 0);
    let table = 2 + (grain.len() / 512) as u32;
    let flags = 0x30001;
    let mut marker = vec![0; 512];
    marker[12] = 3;
    [
        header(flags, u64::MAX),
        text,
        grain,
        sector(&[2, 0]),
        sector(&[table, 0]),
        marker,
        header(flags, u64::from(table) + 1),
        vec![0; 512],
    ]
    .concat()
}
