//! One file for each command.

pub mod bench;
pub mod compare;
pub mod convert;
pub mod distill;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod importance;
pub mod inspect;
pub mod reason;
pub mod warm_up;
