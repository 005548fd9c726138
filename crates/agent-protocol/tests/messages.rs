//! Every message arrives as it was sent.

use donjon_agent_protocol::copy::{Kind, Options, Report, Source};
use donjon_agent_protocol::exit::{self, Exit};
use donjon_agent_protocol::frame::{FrameReader, FrameWriter, MAX_DATA};
use donjon_agent_protocol::{
    Error, ErrorKind, Exec, FirstBoot, Info, Interface, Memory, Os, Reply, Request, Shutdown, Terminal, User,
    WindowSize,
};
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

fn text() -> impl Strategy<Value = String> {
    ".{0,40}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..8)
}

fn size() -> impl Strategy<Value = WindowSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| WindowSize { rows, columns })
}

fn time() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0..1_000_000_000u32).prop_map(|(s, n)| Duration::new(s, n))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::File, Kind::Directory, Kind::Symlink])
}

fn exec() -> impl Strategy<Value = Exec> {
    let terminal = (size(), text()).prop_map(|(size, term)| Terminal { size, term });
    let env = prop::collection::vec((text(), text()), 0..5);
    let names = (option::of(text()), option::of(text()));
    (texts(), env, names, option::of(terminal), any::<bool>()).prop_map(
        |(argv, env, (cwd, user), terminal, stdin)| Exec {
            argv,
            env,
            cwd,
            user,
            terminal,
            stdin,
        },
    )
}

fn first_boot() -> impl Strategy<Value = FirstBoot> {
    let user = (text(), texts(), option::of(text()), any::<bool>());
    let user = user.prop_map(|(name, ssh_keys, shell, sudo)| User {
        name,
        ssh_keys,
        shell,
        sudo,
    });
    (option::of(text()), option::of(user), option::of(text())).prop_map(|(hostname, user, timezone)| {
        FirstBoot {
            hostname,
            user,
            timezone,
        }
    })
}

fn request(data: &'static [u8]) -> impl Strategy<Value = Request<'static>> {
    let copy_in = (text(), kind(), text(), any::<(bool, bool)>());
    let copy_in = copy_in.prop_map(|(path, kind, name, (contents, preserve))| Request::CopyIn {
        path,
        source: Source { kind, name, contents },
        options: Options { preserve },
    });
    let mount = (text(), text(), any::<bool>());
    let mount = mount.prop_map(|(tag, path, read_only)| Request::Mount { tag, path, read_only });
    let copy_out = (text(), any::<bool>());
    let shutdown = prop::sample::select(vec![Shutdown::PowerOff, Shutdown::Reboot]);
    let plain = [
        Request::Ping,
        Request::Info,
        Request::StdinEof,
        Request::End,
        Request::Thaw,
    ];
    prop_oneof![
        prop::sample::select(plain.to_vec()),
        exec().prop_map(Request::Exec),
        Just(Request::Stdin(data)),
        Just(Request::Data(data)),
        size().prop_map(Request::Resize),
        any::<u8>().prop_map(Request::Signal),
        copy_in,
        copy_out.prop_map(|(path, follow)| Request::CopyOut { path, follow }),
        shutdown.prop_map(Request::Shutdown),
        time().prop_map(Request::SetTime),
        time().prop_map(Request::Freeze),
        mount,
        first_boot().prop_map(Request::FirstBoot),
    ]
}

fn info() -> impl Strategy<Value = Info> {
    let os = (text(), text(), text()).prop_map(|(id, version, name)| Os { id, version, name });
    let addresses = prop::collection::vec((any::<std::net::IpAddr>(), any::<u8>()), 0..4);
    let interface = (text(), option::of(any::<[u8; 6]>()), addresses);
    let interface = interface.prop_map(|(name, mac, addresses)| Interface { name, mac, addresses });
    let memory = any::<[u64; 4]>().prop_map(|[total, available, swap_total, swap_free]| Memory {
        total,
        available,
        swap_total,
        swap_free,
    });
    let names = (text(), text(), text());
    let load = prop::array::uniform3(0f32..1000.0);
    (
        names,
        os,
        prop::collection::vec(interface, 0..4),
        time(),
        load,
        memory,
    )
        .prop_map(
            |((version, kernel, hostname), os, interfaces, uptime, load, memory)| Info {
                version,
                os,
                kernel,
                hostname,
                interfaces,
                uptime,
                load,
                memory,
            },
        )
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![
        any::<u8>().prop_map(Exit::Code),
        any::<u8>().prop_map(Exit::Signal)
    ]
}

fn reply(data: &'static [u8]) -> impl Strategy<Value = Reply<'static>> {
    let kinds = vec![
        ErrorKind::Malformed,
        ErrorKind::Invalid,
        ErrorKind::NotFound,
        ErrorKind::Busy,
        ErrorKind::Unsupported,
        ErrorKind::Failed,
    ];
    let error = (prop::sample::select(kinds), text());
    let report = (any::<[u64; 5]>(), texts());
    let report = report.prop_map(
        |([files, directories, symlinks, bytes, skipped], examples)| Report {
            files,
            directories,
            symlinks,
            bytes,
            skipped,
            examples,
        },
    );
    prop_oneof![
        Just(Reply::Done),
        Just(Reply::Ready),
        error.prop_map(|(kind, message)| Reply::Error(Error::new(kind, message))),
        info().prop_map(Reply::Info),
        any::<u32>().prop_map(Reply::Started),
        any::<u32>().prop_map(Reply::StdinCredit),
        Just(Reply::Stdout(data)),
        Just(Reply::Stderr(data)),
        Just(Reply::Data(data)),
        exit().prop_map(Reply::Exited),
        kind().prop_map(Reply::Source),
        report.prop_map(Reply::Copied),
    ]
}

static DATA: [u8; MAX_DATA] = [0xa5; MAX_DATA];

fn data() -> impl Strategy<Value = &'static [u8]> {
    (0..=MAX_DATA).prop_map(|n| &DATA[..n])
}

proptest! {
    #[test]
    fn requests(sent in data().prop_flat_map(request)) {
        let mut out = vec![];
        FrameWriter::new(&mut out).send(&sent).unwrap();
        let mut reader = FrameReader::new(&out[..]);
        prop_assert_eq!(reader.next::<Request<'_>>().unwrap(), Some(sent));
        prop_assert!(reader.next::<Request<'_>>().unwrap().is_none());
    }

    #[test]
    fn replies(sent in prop::collection::vec(data().prop_flat_map(reply), 1..4)) {
        let mut out = vec![];
        let mut writer = FrameWriter::new(&mut out);
        for reply in &sent {
            writer.send(reply).unwrap();
        }
        let mut reader = FrameReader::new(&out[..]);
        for reply in sent {
            prop_assert_eq!(reader.next::<Reply<'_>>().unwrap(), Some(reply));
        }
    }

    #[test]
    fn damaged_messages_are_refused_or_understood(
        sent in request(&DATA[..20]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut out = vec![];
        FrameWriter::new(&mut out).send(&sent).unwrap();
        for (at, byte) in damage {
            let at = at.index(out.len());
            out[at] = byte;
        }
        let mut reader = FrameReader::new(&out[..]);
        // Frames that are whole are read to the end, whatever is in them.
        if let Ok(Some(message)) = reader.next::<Request<'_>>() {
            let mut again = vec![];
            FrameWriter::new(&mut again).send(&message).unwrap();
        }
    }

    #[test]
    fn reports(sent in prop_oneof![exit().prop_map(exit::Report::Exited), text().prop_map(exit::Report::Failed)]) {
        let mut out = vec![];
        FrameWriter::new(&mut out).send(&sent).unwrap();
        prop_assert_eq!(FrameReader::new(&out[..]).next().unwrap(), Some(sent));
    }
}

#[test]
fn messages_keep_their_numbers() {
    // What the other side, of another version, goes by: the first byte of each.
    let number = |m: &dyn Fn(&mut FrameWriter<&mut Vec<u8>>)| {
        let mut out = vec![];
        m(&mut FrameWriter::new(&mut out));
        out[4]
    };
    let requests = [
        (Request::Ping, 0),
        (Request::Exec(Exec::default()), 2),
        (Request::Stdin(b""), 3),
        (Request::Signal(1), 6),
        (Request::Data(b""), 9),
        (Request::SetTime(Duration::ZERO), 12),
        (Request::FirstBoot(FirstBoot::default()), 16),
    ];
    for (request, n) in requests {
        assert_eq!(number(&|w| w.send(&request).unwrap()), n, "{request:?}");
    }
    let replies = [
        (Reply::Done, 0),
        (Reply::Started(1), 3),
        (Reply::Exited(Exit::Code(0)), 7),
        (Reply::Copied(Report::default()), 11),
    ];
    for (reply, n) in replies {
        assert_eq!(number(&|w| w.send(&reply).unwrap()), n, "{reply:?}");
    }
}
