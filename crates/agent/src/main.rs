//! `donjon-agent`: `serve` answers the host, `init` is the first program of a guest, `child` starts a program.
#![forbid(unsafe_code)]

use donjon_agent::session::Defaults;
use donjon_agent::{Agent, Guest, child, init, serve};
use donjon_agent_protocol::PORT;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: donjon-agent serve    answer the host over vsock
       donjon-agent init     be the first program of a guest, as /donjon.json says
       donjon-agent version  print the version
";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // The kernel starts /init with the words it does not know.
    if std::process::id() == 1 {
        init::main()
    }
    let words: Vec<_> = args
        .iter()
        .skip(1)
        .map(|a| a.to_str().unwrap_or_default())
        .collect();
    match words[..] {
        ["child", ..] => ExitCode::from(child::main(args.get(2..).unwrap_or_default())),
        ["serve"] => listen(false),
        ["serve", "--init"] => listen(true),
        ["init"] => {
            eprintln!("donjon-agent: `init` has to be process 1");
            ExitCode::FAILURE
        }
        ["version"] => {
            println!("donjon-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn listen(agent_is_init: bool) -> ExitCode {
    let helper = PathBuf::from("/proc/self/exe");
    let defaults = if agent_is_init {
        Defaults::saved()
    } else {
        Defaults::default()
    };
    let agent = Agent::new(Guest { agent_is_init }, helper, defaults);
    serve::serve(agent, PORT, |what| {
        if agent_is_init {
            // The console is the container's.
            init::note(what);
        } else {
            eprintln!("donjon-agent: {what}");
        }
    })
}
