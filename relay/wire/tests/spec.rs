//! The tables of the specification agree with the code.

use culvert_wire::{Code, FrameType};

const SPECIFICATION: &str = include_str!("../src/lib.rs");

/// The cells of every row of the tables whose first cell is a number.
fn rows(columns: usize) -> Vec<Vec<String>> {
    SPECIFICATION
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"))
        .map(|row| {
            row.split(" | ")
                .map(|cell| cell.replace('`', ""))
                .collect::<Vec<_>>()
        })
        .filter(|cells| cells.len() == columns && cells[0].parse::<u16>().is_ok())
        .collect()
}

#[test]
fn the_table_of_frames_is_the_table_of_types() {
    let written: Vec<String> = rows(5)
        .iter()
        .map(|cells| format!("{} {} {}", cells[0], cells[1], cells[3]))
        .collect();
    let limit = |bytes: u32| match bytes {
        u32::MAX => "4 GiB".to_owned(),
        bytes => format!("{} KiB", bytes / 1024),
    };
    let known: Vec<String> = FrameType::ALL
        .iter()
        .map(|kind| format!("{} {kind:?} {}", *kind as u8, limit(kind.limit())))
        .collect();
    assert_eq!(written, known);
}

#[test]
fn the_table_of_codes_is_the_list_of_codes() {
    let written: Vec<String> = rows(4).iter().map(|cells| cells.join(" ")).collect();
    let known: Vec<String> = Code::all()
        .map(|code| {
            let told = format!("{:?} {:?}", code.blame(), code.retry()).to_lowercase();
            format!("{} {} {told}", code.to_u16(), code.name())
        })
        .collect();
    assert_eq!(written, known);
}
