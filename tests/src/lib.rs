//! What the suites in `tests/` share: the f64 oracle, random problems, the device under test, the
//! goldens, and the limits.

pub mod blocks;
pub mod cases;
pub mod device;
pub mod evaluate;
pub mod formulas;
pub mod golden;
pub mod limits;
pub mod oracle;
pub mod problem;
pub mod products;
pub mod published;
pub mod rng;
pub mod timing;
pub mod weights;
