//! Data parallelism: a teacher and a student on every device, one thread each, that see parts of the same batches.
//!
//! What a step computes is a sum over rows, so replicas add up their gradients and their losses and then take the same
//! step: students stay equal, and a checkpoint knows nothing of devices. Sums run from device to device where these can
//! ([`has_collectives`]: NCCL through burn); otherwise, as on the CPU, replicas leave their numbers with each other in memory.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{Device, Tensor, TensorData};
use mamba_ssd::has_collectives;

use crate::error::MohawkError;

/// One of the replicas that train together. Dropping it tells the others that it is gone.
#[derive(Debug)]
pub(crate) struct Replica {
    rank: usize,
    device: Device,
    /// Of all, in the order of their ranks, where sums run from device to device.
    devices: Option<Vec<Device>>,
    meeting: Arc<Meeting>,
}

impl Replica {
    /// One for each device, the first of which leads.
    pub fn team(devices: &[Device]) -> Vec<Self> {
        let meeting = Arc::new(Meeting::new(devices.len()));
        let plain: Vec<Device> = devices.iter().map(|device| device.clone().inner()).collect();
        let distinct = (1..plain.len()).all(|at| !plain[..at].contains(&plain[at]));
        let direct = distinct && plain.iter().all(has_collectives);
        let member = |(rank, device): (usize, &Device)| Self {
            rank,
            device: device.clone(),
            devices: direct.then(|| plain.clone()),
            meeting: meeting.clone(),
        };
        devices.iter().enumerate().map(member).collect()
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its part of `rows` rows, which divide among the replicas.
    pub fn part(&self, rows: usize) -> Range<usize> {
        let own = rows / self.meeting.of;
        self.rank * own..(self.rank + 1) * own
    }

    /// Whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.meeting.of == 1
    }

    /// The sum of what all replicas bring, the same numbers for each.
    ///
    /// # Errors
    ///
    /// If another is gone.
    pub fn sum(&self, tensor: Tensor<1>) -> Result<Tensor<1>, MohawkError> {
        if self.is_alone() {
            return Ok(tensor);
        }
        if let Some(devices) = &self.devices {
            // Nobody starts a sum that another will never join.
            self.meeting.meet(|_| ())?;
            return Ok(all_reduce(tensor, ReduceOperation::Sum, devices.clone()).resolve());
        }
        let (device, dtype) = (tensor.device(), tensor.dtype());
        let data = tensor.into_data();
        self.meeting.meet(|table| table.brought[self.rank] = Some(data))?;
        let parts = self.meeting.table().brought.clone();
        self.meeting.meet(|_| ())?; // nobody brings the next before all have taken these
        let parts = parts.into_iter().flatten().map(|data| Tensor::<1>::from_data(data, (&device, dtype)));
        Ok(parts.reduce(|sum, part| sum + part).expect("at least the own"))
    }

    /// Waits until the device has done what it was asked for. Devices tell of what went wrong only then, and a sum that
    /// one replica cannot join would keep the others' devices waiting for ever.
    ///
    /// # Panics
    ///
    /// If something went wrong, with the device's words.
    pub fn settle(&self) {
        if !self.is_alone()
            && let Err(error) = self.device.sync()
        {
            panic!("{error}");
        }
    }

    /// What the first replica brings: numbers that decide a step are the same to the last bit.
    ///
    /// # Errors
    ///
    /// If another is gone.
    pub fn of_first(&self, tensor: Tensor<1>) -> Result<Tensor<1>, MohawkError> {
        self.sum(if self.rank == 0 { tensor } else { tensor.zeros_like() })
    }

    /// Whether the first replica wants to stop; what the others want does not count.
    ///
    /// # Errors
    ///
    /// If another is gone.
    pub fn agree(&self, stop: bool) -> Result<bool, MohawkError> {
        self.meeting.meet(|table| {
            if self.rank == 0 {
                table.stop = stop;
            }
        })?;
        let stop = self.meeting.table().stop;
        self.meeting.meet(|_| ())?;
        Ok(stop)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.meeting.table().gone.get_or_insert(self.rank);
        self.meeting.turn.notify_all();
    }
}

/// Where all replicas come together.
#[derive(Debug)]
struct Meeting {
    of: usize,
    table: Mutex<Table>,
    turn: Condvar,
}

#[derive(Debug)]
struct Table {
    arrived: usize,
    meetings: u64,
    /// The first that will not come again.
    gone: Option<usize>,
    brought: Vec<Option<TensorData>>,
    stop: bool,
}

impl Meeting {
    fn new(of: usize) -> Self {
        let table = Table { arrived: 0, meetings: 0, gone: None, brought: vec![None; of], stop: false };
        Self { of, table: Mutex::new(table), turn: Condvar::new() }
    }

    /// The table stays usable when a replica panics: all that is on it was put there in one piece.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something on the table and waits until all have.
    fn meet(&self, put: impl FnOnce(&mut Table)) -> Result<(), MohawkError> {
        let mut table = self.table();
        put(&mut table);
        table.arrived += 1;
        let meeting = table.meetings;
        if table.arrived == self.of {
            table.arrived = 0;
            table.meetings += 1;
            self.turn.notify_all();
            return Ok(());
        }
        while table.meetings == meeting && table.gone.is_none() {
            // On a thread that computes for all, others may be waiting for just this one to compute.
            table = match rayon::current_thread_index() {
                None => self.turn.wait(table).unwrap_or_else(PoisonError::into_inner),
                Some(_) => {
                    let waited = self.turn.wait_timeout(table, Duration::from_millis(1));
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                    rayon::yield_now();
                    self.table()
                }
            };
        }
        match table.gone {
            Some(rank) if table.meetings == meeting => Err(MohawkError::Replica(rank)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rayon::prelude::*;

    use super::*;

    fn team(of: usize) -> Vec<Replica> {
        Replica::team(&vec![Device::flex(); of])
    }

    #[test]
    fn rows_are_shared_out_without_gap_or_overlap() {
        let parts: Vec<_> = team(3).iter().map(|replica| replica.part(12)).collect();
        assert_eq!(parts, [0..4, 4..8, 8..12]);
    }

    #[test]
    fn every_replica_has_the_sum_of_every_round() {
        let work = |replica: Replica| {
            let own = |round: usize| (10 * round + replica.rank) as f32;
            let sum = |round| replica.sum(Tensor::from_floats([own(round), 1.0], &Device::flex()));
            let values =
                |round| sum(round).expect("all are there").into_data().iter::<f32>().collect::<Vec<_>>();
            (0..50).map(values).collect::<Vec<_>>()
        };
        let threads: Vec<_> =
            team(3).into_iter().map(|replica| thread::spawn(move || work(replica))).collect();
        for thread in threads {
            for (round, sum) in thread.join().expect("no panic").into_iter().enumerate() {
                assert_eq!(sum, [30.0 * round as f32 + 3.0, 3.0]);
            }
        }
    }

    #[test]
    fn the_first_decides_for_all() {
        let work = |replica: Replica| {
            let rounds = (0..40)
                .map(|round| replica.agree(if replica.rank == 0 { round % 3 == 0 } else { round % 2 == 0 }));
            rounds.map(|stop| stop.expect("all are there")).collect::<Vec<_>>()
        };
        let threads: Vec<_> =
            team(3).into_iter().map(|replica| thread::spawn(move || work(replica))).collect();
        for thread in threads {
            let expected: Vec<bool> = (0..40).map(|round| round % 3 == 0).collect();
            assert_eq!(thread.join().expect("no panic"), expected);
        }
    }

    /// The program runs on one of the threads that compute, and there may be no other.
    #[test]
    fn a_replica_that_waits_computes_for_the_others() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
        let mut team = team(2);
        let second = team.pop().expect("two");
        let first = team.pop().expect("two");
        thread::scope(|scope| {
            let work = || {
                let sum: u64 = pool.install(|| (0..1000u64).into_par_iter().sum());
                assert_eq!(sum, 499_500);
                second.agree(false)
            };
            let other = scope.spawn(work);
            assert!(matches!(pool.install(|| first.agree(true)), Ok(true)));
            assert!(matches!(other.join().expect("no panic"), Ok(true)));
        });
    }

    #[test]
    fn numbers_of_the_first_are_those_of_all() {
        let work = |replica: Replica| {
            let own = Tensor::from_floats([replica.rank as f32 + 0.5], &Device::flex());
            replica.settle();
            replica.of_first(own).expect("all are there").into_scalar::<f32>()
        };
        let threads: Vec<_> =
            team(3).into_iter().map(|replica| thread::spawn(move || work(replica))).collect();
        assert!(threads.into_iter().all(|thread| thread.join().expect("no panic") == 0.5));
    }

    #[test]
    fn nobody_waits_for_one_that_is_gone() {
        let mut team = team(3);
        let last = team.pop().expect("three");
        let waiting: Vec<_> =
            team.into_iter().map(|replica| thread::spawn(move || replica.agree(false))).collect();
        drop(last);
        for thread in waiting {
            assert!(matches!(thread.join().expect("no panic"), Err(MohawkError::Replica(_))));
        }
    }
}
