//! Texts of a guest that a user will see: a terminal must not take them for commands.

use donjon_agent_protocol::copy::Report;
use donjon_agent_protocol::{Error, Info};

/// Without control characters.
pub fn text(mut text: String) -> String {
    text.retain(|c| !c.is_control());
    text
}

/// See [`text`].
pub fn error(error: Error) -> Error {
    Error {
        message: text(error.message),
        ..error
    }
}

/// See [`text`].
pub fn report(report: Report) -> Report {
    Report {
        examples: report.examples.into_iter().map(text).collect(),
        ..report
    }
}

/// See [`text`].
pub fn info(mut info: Info) -> Info {
    let os = &mut info.os;
    let texts = [&mut info.version, &mut info.kernel, &mut info.hostname];
    let texts = texts
        .into_iter()
        .chain([&mut os.id, &mut os.version, &mut os.name]);
    for slot in texts.chain(info.interfaces.iter_mut().map(|i| &mut i.name)) {
        *slot = text(std::mem::take(slot));
    }
    info
}
