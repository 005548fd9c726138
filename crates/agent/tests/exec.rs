//! Programs that the agent runs.

mod common;

use common::{Guest, command, eventually, sh};
use donjon_agent::session::Defaults;
use donjon_agent_client::{ClientError, Event};
use donjon_agent_protocol::exit::Exit;
use donjon_agent_protocol::{ErrorKind, Exec, Terminal, WindowSize};
use std::path::Path;
use std::thread;

/// The root's user may become anybody.
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn refused(guest: &Guest, exec: &Exec) -> (ErrorKind, String) {
    match guest.client.exec(exec) {
        Err(ClientError::Refused(e)) => (e.kind, e.message),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it runs"),
    }
}

fn on_terminal(script: &str) -> Exec {
    Exec {
        terminal: Some(Terminal {
            size: WindowSize {
                rows: 11,
                columns: 22,
            },
            term: "vt100".into(),
        }),
        stdin: true,
        ..sh(script)
    }
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

#[test]
fn output_and_exit_codes() {
    let guest = Guest::new();
    assert_eq!(
        guest.sh("echo out; echo err >&2; exit 7"),
        (7, "out\n".into(), "err\n".into())
    );
    assert_eq!(guest.sh("true").0, 0);
    assert_eq!(guest.sh("exit 255").0, 255);
    let exit = guest
        .client
        .exec(&sh("kill -SEGV $$"))
        .unwrap()
        .output(0)
        .unwrap()
        .0;
    assert_eq!((exit, exit.code()), (Exit::Signal(11), 139));
}

#[test]
fn what_cannot_be_started_is_told() {
    let guest = Guest::new();
    let (code, _, err) = guest.run(&command(&["no-such-program"]));
    assert_eq!(code, 127);
    assert!(
        err.contains("no-such-program") && err.contains("No such file"),
        "{err}"
    );
    assert_eq!(guest.run(&command(&["/etc/passwd"])).0, 126);
    let nowhere = Exec {
        cwd: Some("/no/such".into()),
        ..command(&["true"])
    };
    let (code, _, err) = guest.run(&nowhere);
    assert_eq!(code, 126);
    assert!(err.contains("/no/such"), "{err}");
    for bad in [
        Exec::default(),
        command(&[""]),
        command(&["a\0b"]),
        Exec {
            cwd: Some("relative".into()),
            ..command(&["true"])
        },
        Exec {
            env: vec![("A=B".into(), "c".into())],
            ..command(&["true"])
        },
        Exec {
            env: vec![(String::new(), "c".into())],
            ..command(&["true"])
        },
    ] {
        assert_eq!(refused(&guest, &bad).0, ErrorKind::Invalid, "{bad:?}");
    }
    let nobody = Exec {
        user: Some("no-such-user".into()),
        ..command(&["true"])
    };
    let (kind, message) = refused(&guest, &nobody);
    assert!(kind == ErrorKind::NotFound && message.contains("no-such-user"));
    let long = command(&["echo", &"x".repeat(70_000)]);
    assert!(matches!(guest.client.exec(&long), Err(ClientError::TooLong)));
}

#[test]
fn the_environment_is_that_of_the_request() {
    let guest = Guest::new();
    let exec = Exec {
        env: vec![("PATH".into(), "/bin".into()), ("A".into(), "b=\nc".into())],
        ..command(&["/usr/bin/env", "-0"])
    };
    let (_, out, _) = guest.run(&exec);
    let mut vars: Vec<_> = out.split_terminator('\0').collect();
    vars.sort_unstable();
    let names: Vec<_> = vars.iter().map(|v| v.split('=').next().unwrap()).collect();
    assert_eq!(names, ["A", "HOME", "LOGNAME", "PATH", "SHELL", "USER"]);
    assert!(vars.contains(&"A=b=\nc") && vars.contains(&"PATH=/bin"));
}

#[test]
fn a_container_has_defaults_of_its_own() {
    let user = rustix::process::geteuid().as_raw().to_string();
    let defaults = Defaults {
        env: vec![("A".into(), "1".into()), ("B".into(), "2".into())],
        cwd: Some("/usr".into()),
        user: Some(user),
    };
    let guest = Guest::at(Path::new("/"), defaults);
    let exec = Exec {
        cwd: None,
        env: vec![("B".into(), "3".into())],
        ..sh("echo $A $B $(pwd)")
    };
    assert_eq!(guest.run(&exec).1, "1 3 /usr\n");
}

#[test]
fn users() {
    let guest = Guest::new();
    let exec = Exec {
        user: Some("12345:54321".into()),
        cwd: None,
        ..sh(
            "id -u; id -g; id -G; echo $HOME; pwd; cat /proc/self/status | grep -c 'CapEff:.*0000000000000000'",
        )
    };
    if !root() {
        assert_eq!(refused(&guest, &exec).0, ErrorKind::Unsupported);
        return;
    }
    assert_eq!(guest.run(&exec).1, "12345\n54321\n54321\n/\n/\n1\n");
    let nobody = Exec {
        user: Some("nobody".into()),
        ..sh("id -un; id -G; echo $USER; touch /etc/x 2>/dev/null || echo no")
    };
    assert_eq!(guest.run(&nobody).1, "nobody\n65534\nnobody\nno\n");
    // A terminal belongs to its user.
    let mut exec = on_terminal("exec 3<>$(tty) && stat -c %u $(tty)");
    exec.user = Some("nobody".into());
    assert_eq!(guest.run(&exec).1, "65534\r\n");
}

#[test]
fn input_reaches_the_program_and_ends() {
    let guest = Guest::new();
    let exec = Exec {
        stdin: true,
        ..command(&["md5sum"])
    };
    let session = guest.client.exec(&exec).unwrap();
    let input = session.input();
    let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let writer = thread::spawn(move || {
        input.write(&data).unwrap();
        input.end_of_file().unwrap();
    });
    let (exit, out, _) = session.output(100).unwrap();
    writer.join().unwrap();
    assert_eq!(exit, Exit::Code(0));
    // What md5sum says of these bytes.
    let expected = {
        let file = tempfile::NamedTempFile::new().unwrap();
        let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(file.path(), data).unwrap();
        let stdin = std::fs::File::open(file.path()).unwrap();
        std::process::Command::new("md5sum")
            .stdin(stdin)
            .output()
            .unwrap()
            .stdout
    };
    assert_eq!(out, expected);
}

#[test]
fn without_input_there_is_none() {
    let guest = Guest::new();
    assert_eq!(guest.run(&command(&["wc", "-c"])).1, "0\n");
}

#[test]
fn both_ways_at_once() {
    let guest = Guest::new();
    let exec = Exec {
        stdin: true,
        ..command(&["cat"])
    };
    let mut session = guest.client.exec(&exec).unwrap();
    let input = session.input();
    let writer = thread::spawn(move || {
        for n in 0..2000u32 {
            input.write(&n.to_le_bytes().repeat(1000)).unwrap();
        }
        input.end_of_file().unwrap();
    });
    let mut got = vec![];
    loop {
        match session.next_event().unwrap() {
            Event::Stdout(data) => got.extend_from_slice(data),
            Event::Exited(exit) => break assert_eq!(exit, Exit::Code(0)),
            other => panic!("{other:?}"),
        }
    }
    writer.join().unwrap();
    let sent: Vec<u8> = (0..2000u32).flat_map(|n| n.to_le_bytes().repeat(1000)).collect();
    assert!(got == sent);
}

#[test]
fn input_that_nobody_reads_holds_up_nothing() {
    let guest = Guest::new();
    let exec = Exec {
        stdin: true,
        ..sh("sleep 1000")
    };
    let mut session = guest.client.exec(&exec).unwrap();
    let input = session.input();
    // As much as there is credit for; the agent keeps it.
    input.write(&[7; 256 << 10]).unwrap();
    input.signal(15).unwrap();
    assert_eq!(session.next_event().unwrap(), Event::Exited(Exit::Signal(15)));
    // Nor does a program that closes its input.
    let exec = Exec {
        stdin: true,
        ..sh("exec <&-; sleep 0.1; echo done")
    };
    let session = guest.client.exec(&exec).unwrap();
    let input = session.input();
    let writer = thread::spawn(move || while input.write(&[7; 4096]).is_ok() {});
    assert_eq!(session.output(100).unwrap().1, b"done\n");
    writer.join().unwrap();
}

/// Of this process, the agent in it: bytes of memory in use.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn much_output_takes_no_memory() {
    const MUCH: u64 = 100 << 20;
    let guest = Guest::new();
    let mut session = guest
        .client
        .exec(&sh(&format!("head -c {MUCH} /dev/zero")))
        .unwrap();
    // Nobody reads for a while: the program has to wait, not the agent's memory to grow.
    let before = resident();
    thread::sleep(std::time::Duration::from_millis(300));
    let mut total = 0;
    let mut most = resident();
    loop {
        match session.next_event().unwrap() {
            Event::Stdout(data) => total += data.len() as u64,
            Event::Exited(exit) => break assert_eq!(exit, Exit::Code(0)),
            other => panic!("{other:?}"),
        }
        if total % (1 << 20) < 65536 {
            most = most.max(resident());
        }
    }
    assert_eq!(total, MUCH);
    assert!(most < before + (8 << 20), "from {before} to {most} bytes");
}

#[test]
fn what_was_written_before_the_end_arrives() {
    let guest = Guest::new();
    for script in [
        "head -c 60000 /dev/zero; exit 3",
        "head -c 60000 /dev/zero; kill -9 $$",
        // Somebody else keeps the pipe open, and writes on.
        "(sleep 5; echo late) & head -c 60000 /dev/zero",
    ] {
        let (_, out, _) = guest.client.exec(&sh(script)).unwrap().output(1 << 20).unwrap();
        assert_eq!(out.len(), 60000, "{script}");
    }
}

#[test]
fn signals() {
    let guest = Guest::new();
    let mut session = guest
        .client
        .exec(&sh(
            "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done",
        ))
        .unwrap();
    let input = session.input();
    assert_eq!(session.next_event().unwrap(), Event::Stdout(b"ready\n"));
    for none in [0, 32, 64, 255] {
        input.signal(none).unwrap();
        assert!(matches!(session.next_event().unwrap(), Event::Refused(e) if e.kind == ErrorKind::Invalid));
    }
    input.signal(10).unwrap();
    let (exit, out, _) = session.output(100).unwrap();
    assert_eq!((exit, &*out), (Exit::Code(5), &b"got\n"[..]));
}

#[test]
fn terminals() {
    let guest = Guest::new();
    let exec = on_terminal(
        "stty size; echo $TERM; tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && ps -o tty= $$ >/dev/null; echo err >&2; read x; stty size; trap 'echo int; exit 9' INT; echo go; while :; do sleep 0.01; done",
    );
    let mut session = guest.client.exec(&exec).unwrap();
    let input = session.input();
    let mut seen = String::new();
    let mut until = |session: &mut donjon_agent_client::Session, what: &str| {
        while !seen.contains(what) {
            match session.next_event().unwrap() {
                Event::Stdout(data) => seen += std::str::from_utf8(data).unwrap(),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        std::mem::take(&mut seen)
    };
    let first = until(&mut session, "err\r\n");
    assert!(first.starts_with("11 22\r\nvt100\r\n/dev/pts/"), "{first:?}");
    input
        .resize(WindowSize {
            rows: 33,
            columns: 44,
        })
        .unwrap();
    input.write(b"line\n").unwrap();
    let second = until(&mut session, "go\r\n");
    assert!(second.contains("33 44"), "{second:?}");
    // ^C
    input.write(&[3]).unwrap();
    until(&mut session, "int");
    loop {
        match session.next_event().unwrap() {
            Event::Exited(exit) => break assert_eq!(exit, Exit::Code(9)),
            Event::Stdout(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_end_of_input_is_typed_on_a_terminal() {
    let guest = Guest::new();
    let session = guest.client.exec(&on_terminal("cat; echo over")).unwrap();
    let input = session.input();
    input.write(b"a\n").unwrap();
    input.end_of_file().unwrap();
    let (exit, out, _) = session.output(1000).unwrap();
    assert_eq!(exit, Exit::Code(0));
    assert!(String::from_utf8(out).unwrap().ends_with("a\r\nover\r\n"));
}

#[test]
fn a_signal_reaches_the_foreground_of_a_terminal() {
    let guest = Guest::new();
    // An interactive shell gives each job a process group of its own.
    let mut session = guest
        .client
        .exec(&on_terminal("set -m; echo go; sleep 1000; echo code $?"))
        .unwrap();
    let input = session.input();
    let mut seen = String::new();
    while !seen.contains("go") {
        match session.next_event().unwrap() {
            Event::Stdout(data) => seen += std::str::from_utf8(data).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    // The job may not have begun yet; the shell itself ignores nothing that ends it but this.
    let mut codes = String::new();
    let sender = {
        let input = input.clone();
        thread::spawn(move || {
            while input.signal(2).is_ok() {
                thread::sleep(std::time::Duration::from_millis(50));
            }
        })
    };
    let exit = loop {
        match session.next_event() {
            Ok(Event::Stdout(data)) => codes += std::str::from_utf8(data).unwrap(),
            Ok(Event::Exited(exit)) => break exit,
            Ok(other) => panic!("{other:?}"),
            Err(error) => panic!("{error} after {codes:?}"),
        }
    };
    drop(session);
    sender.join().unwrap();
    assert!(
        codes.contains("code 130") || exit == Exit::Signal(2),
        "{codes:?} {exit:?}"
    );
}

#[test]
fn a_broken_connection_ends_the_whole_session() {
    let guest = Guest::new();
    // One that does as it is told, one that hears nothing, one in a process group of its own, one that is stopped.
    let script = "set -m; exec 2>/dev/null; (trap '' HUP TERM; echo $(exec sh -c 'echo $PPID') ; while :; do sleep 0.1; done) & \
        sleep 1000 & echo $!; sh -c 'echo $$; kill -STOP $$' & echo $$; wait; sleep 1000";
    let mut session = guest.client.exec(&command(&["bash", "-c", script])).unwrap();
    let mut seen = String::new();
    while seen.lines().count() < 4 {
        match session.next_event().unwrap() {
            Event::Stdout(data) => seen += std::str::from_utf8(data).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let pids: Vec<_> = seen.lines().map(str::to_owned).collect();
    assert!(pids.iter().all(|p| alive(p)), "{pids:?}");
    drop(session);
    eventually("all have ended", || !pids.iter().any(|p| alive(p)));
}

#[test]
fn a_connection_that_breaks_at_once_leaves_nothing() {
    let guest = Guest::new();
    let marker = format!("1000.{}", std::process::id());
    for _ in 0..20 {
        drop(guest.client.exec(&command(&["sleep", &marker])).unwrap());
    }
    let running = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|e| {
            let line = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&marker)
        })
    };
    eventually("none runs", || !running());
}

#[test]
fn a_program_may_leave_others_behind() {
    let guest = Guest::new();
    let (code, out, _) = guest.sh("sleep 3 >/dev/null 2>&1 & echo $!");
    assert_eq!(code, 0);
    assert!(alive(&out));
}

#[test]
fn fifty_at_once() {
    let guest = Guest::new();
    thread::scope(|scope| {
        for n in 0..50u8 {
            let guest = &guest;
            scope.spawn(move || {
                let exec = Exec {
                    stdin: true,
                    ..sh(&format!("cat; exit {n}"))
                };
                let session = guest.client.exec(&exec).unwrap();
                let input = session.input();
                input.write(&[n; 1000]).unwrap();
                input.end_of_file().unwrap();
                let (exit, out, _) = session.output(1 << 20).unwrap();
                assert_eq!((exit, out), (Exit::Code(n), vec![n; 1000]));
            });
        }
    });
}
