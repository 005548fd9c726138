//! Programs in the guest with the streams of one here.

mod common;

use common::{Guest, command, eventually, sh};
use donjon_agent_client::{ClientError, Local, terminal_size};
use donjon_agent_protocol::exit::Exit;
use donjon_agent_protocol::{Exec, Terminal, WindowSize};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, getpid, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::thread;

/// Signals are the whole process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A terminal: the side of who types, and that of the program.
fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, vec![]).unwrap();
    let slave = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (master.into(), slave.into())
}

fn size(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

fn is_raw(terminal: &File) -> bool {
    !tcgetattr(terminal)
        .unwrap()
        .local_modes
        .contains(LocalModes::ICANON)
}

fn file(end: impl Into<OwnedFd>) -> File {
    end.into().into()
}

fn on_terminal(script: &str) -> Exec {
    Exec {
        terminal: Some(Terminal {
            size: WindowSize { rows: 1, columns: 1 },
            term: "xterm".into(),
        }),
        stdin: true,
        ..sh(script)
    }
}

/// Reads until the text is there.
fn read_until(mut from: impl Read, what: &str) -> String {
    let mut seen = vec![];
    while !String::from_utf8_lossy(&seen).contains(what) {
        let mut byte = [0];
        assert_eq!(
            from.read(&mut byte).unwrap(),
            1,
            "{:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend(byte);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn pipes() {
    let _alone = ALONE.lock();
    let guest = Guest::new();
    let (input, mut typed) = pipe().unwrap();
    let (mut out, output) = pipe().unwrap();
    let (mut err, errors) = pipe().unwrap();
    let exec = Exec {
        stdin: true,
        ..sh("read x; echo $x; echo oops >&2; cat; exit 4")
    };
    typed.write_all(b"line\nmore\n").unwrap();
    drop(typed);
    let local = Local {
        input: Some(file(input)),
        output: file(output),
        errors: file(errors),
    };
    let exit = guest.client.exec(&exec).unwrap().attach(local, false).unwrap();
    assert_eq!(exit, Exit::Code(4));
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "line\nmore\n");
    text.clear();
    err.read_to_string(&mut text).unwrap();
    assert_eq!(text, "oops\n");
}

#[test]
fn input_that_is_not_wanted_stays() {
    let _alone = ALONE.lock();
    let guest = Guest::new();
    let (mut input, mut typed) = pipe().unwrap();
    let exec = Exec {
        stdin: true,
        ..command(&["true"])
    };
    let local = Local {
        input: Some(input.try_clone().unwrap().into()).map(|fd: OwnedFd| fd.into()),
        output: File::create("/dev/null").unwrap(),
        errors: File::create("/dev/null").unwrap(),
    };
    // Nobody types: the program's end is enough.
    assert_eq!(
        guest.client.exec(&exec).unwrap().attach(local, false).unwrap(),
        Exit::Code(0)
    );
    typed.write_all(b"for the next").unwrap();
    drop(typed);
    let mut rest = String::new();
    input.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "for the next");
}

#[test]
fn output_that_nobody_takes_ends_the_program() {
    let _alone = ALONE.lock();
    let guest = Guest::new();
    let (out, output) = pipe().unwrap();
    drop(out);
    let session = guest.client.exec(&command(&["yes"])).unwrap();
    let pid = session.pid();
    let local = Local {
        input: None,
        output: file(output),
        errors: File::create("/dev/null").unwrap(),
    };
    assert!(matches!(
        session.attach(local, false),
        Err(ClientError::Local("standard output", _))
    ));
    eventually("it ends", || {
        !std::path::Path::new(&format!("/proc/{pid}/stat")).exists()
    });
}

#[test]
fn signals_are_the_programs() {
    let _alone = ALONE.lock();
    let guest = Guest::new();
    for (signal, number) in [
        (Signal::INT, 2),
        (Signal::TERM, 15),
        (Signal::HUP, 1),
        (Signal::QUIT, 3),
    ] {
        let (out, output) = pipe().unwrap();
        let script = format!("trap 'exit 9' {number}; echo go; while :; do sleep 0.01; done");
        let session = guest.client.exec(&sh(&script)).unwrap();
        let local = Local {
            input: None,
            output: file(output),
            errors: File::create("/dev/null").unwrap(),
        };
        let killer = thread::spawn(move || {
            read_until(&out, "go");
            kill_process(getpid(), signal).unwrap();
            out
        });
        assert_eq!(session.attach(local, false).unwrap(), Exit::Code(9));
        drop(killer.join().unwrap());
    }
}

#[test]
fn a_terminal_is_raw_only_meanwhile() {
    let _alone = ALONE.lock();
    let guest = Guest::new();
    let (master, slave) = terminal();
    size(&slave, 12, 34);
    assert!(!is_raw(&slave));
    let exec = on_terminal("while read x && [ $x = a ]; do stty size; done; exit 6");
    let session = guest.client.exec(&exec).unwrap();
    let local = Local {
        input: Some(slave.try_clone().unwrap()),
        output: slave.try_clone().unwrap(),
        errors: slave.try_clone().unwrap(),
    };
    let attached = thread::spawn(move || session.attach(local, true));
    eventually("it is raw", || is_raw(&slave));
    // The size it has here, not that of the request. It is told by another thread.
    let becomes = |size: &str| {
        eventually(size, || {
            (&master).write_all(b"a\n").unwrap();
            // The echo, and the answer.
            (read_until(&master, "\n") + &read_until(&master, "\n")).contains(size)
        });
    };
    becomes("12 34");
    size(&slave, 56, 78);
    kill_process(getpid(), Signal::WINCH).unwrap();
    assert_eq!(
        terminal_size(&slave),
        Some(WindowSize {
            rows: 56,
            columns: 78
        })
    );
    becomes("56 78");
    (&master).write_all(b"c\n").unwrap();
    assert_eq!(attached.join().unwrap().unwrap(), Exit::Code(6));
    assert!(!is_raw(&slave));
}

#[test]
fn a_signal_puts_the_terminal_back() {
    let _alone = ALONE.lock();
    let guest = Guest::new();
    for signal in [Signal::TERM, Signal::HUP] {
        let (_master, slave) = terminal();
        let session = guest.client.exec(&on_terminal("sleep 1000")).unwrap();
        let pid = session.pid();
        let local = Local {
            input: Some(slave.try_clone().unwrap()),
            output: slave.try_clone().unwrap(),
            errors: slave.try_clone().unwrap(),
        };
        let attached = thread::spawn(move || session.attach(local, true));
        eventually("it is raw", || is_raw(&slave));
        // Then a signal ends no process any more.
        kill_process(getpid(), signal).unwrap();
        let error = attached.join().unwrap().unwrap_err();
        assert!(
            matches!(error, ClientError::Interrupted(n) if n == signal.as_raw()),
            "{error}"
        );
        assert!(!is_raw(&slave));
        eventually("it ends", || {
            !std::path::Path::new(&format!("/proc/{pid}/stat")).exists()
        });
    }
}
