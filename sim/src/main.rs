//! `simulate [SEED] [--worlds N] [--minutes M] [--trace]`: runs worlds, and says which one broke a promise.

use kioskd_sim::net::SECOND;
use kioskd_sim::replica::hear_logs;
use kioskd_sim::world::World;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const USAGE: &str = "\
usage: simulate [SEED] [--worlds N] [--minutes M] [--trace]
  SEED         the first world's seed; without it, a fresh one
  --worlds N   so many worlds, with one seed after the other; without it, one if there is a SEED
  --minutes M  no longer than that, say 0.5; without SEED and N, one minute
  --trace      the whole story of the first world";

/// The search for an order is as deep as a history is long.
const STACK_BYTES: usize = 256 << 20;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let trace = words.iter().position(|word| word == "--trace").map(|at| words.remove(at)).is_some();
    let mut option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        let value = words.drain(at..words.len().min(at + 2)).nth(1);
        Some(value.and_then(|value| value.parse::<f64>().ok()).filter(|n| (0.0..1e15).contains(n)).ok_or(()))
    };
    let (worlds, minutes) = (option("--worlds").transpose(), option("--minutes").transpose());
    let seed = words.pop().map(|word| word.parse::<u64>().map_err(drop)).transpose();
    let (Ok(worlds), Ok(minutes), Ok(seed), true) = (worlds, minutes, seed, words.is_empty()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    hear_logs();
    // Worlds with neighbouring seeds have nothing in common, so fresh seeds need only differ.
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs() * 1_000_000);
    let first = seed.unwrap_or_else(fresh);
    let one = if seed.is_some() && minutes.is_none() { 1.0 } else { f64::MAX };
    let worlds = worlds.unwrap_or(one) as u64;
    let minutes = minutes.unwrap_or(if worlds == u64::MAX { 1.0 } else { 1e6 });
    let broken = if trace { None } else { many(first, worlds, Duration::from_secs_f64(minutes * 60.0)) };
    if broken.is_none() && !trace {
        return ExitCode::SUCCESS;
    }
    let (seed, digest) = broken.unwrap_or((first, 0));
    let told = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let told = World::run(seed, true);
        let story = told.net.story.as_deref().unwrap_or_default();
        let last = if trace { story.len() } else { 60 };
        story[story.len().saturating_sub(last)..].iter().for_each(|line| say(line));
        if !trace && digest != told.net.digest {
            println!("the second time it went differently: something is not deterministic");
        }
        say(&line(seed, &told));
        let Some(broken) = told.book.broken else { return ExitCode::SUCCESS };
        println!("BROKEN in seed {seed}: {broken}\nfor the whole story: tests/simulate {seed} --trace");
        ExitCode::FAILURE
    });
    told.expect("a thread").join().unwrap_or(ExitCode::FAILURE)
}

/// Runs so many worlds, on all cores; gives the seed and the digest of the first that broke a promise.
fn many(first: u64, worlds: u64, time: Duration) -> Option<(u64, u64)> {
    println!("the first seed is {first}");
    let began = Instant::now();
    // How many have begun, what came of all together, and the one that broke a promise.
    let shared = Mutex::new((0, [0; 7], None));
    let begin = || {
        let mut shared = shared.lock().expect("BUG: a panic");
        let more = shared.0 < worlds && shared.2.is_none() && began.elapsed() < time;
        shared.0 += 1;
        more.then_some(first + shared.0 - 1)
    };
    let work = || {
        while let Some(seed) = begin() {
            let world = World::run(seed, false);
            say(&line(seed, &world));
            let [requests, answers, faults, undecided] = world.book.counts;
            let lost = world.book.lost_acknowledged() as u64;
            let all = [1, world.net.now, requests, answers, faults, undecided, lost];
            let mut shared = shared.lock().expect("BUG: a panic");
            shared.1.iter_mut().zip(all).for_each(|(sum, n)| *sum += n);
            if world.book.broken.is_some() {
                shared.2.get_or_insert((seed, world.net.digest));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(worlds as usize);
    thread::scope(|scope| {
        for _ in 0..threads {
            thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).expect("a thread");
        }
    });
    let (_, [worlds, time, requests, answers, faults, undecided, lost], broken) =
        shared.into_inner().expect("BUG: a panic");
    let (real, time) = (began.elapsed().as_secs_f64(), time as f64 / SECOND as f64);
    let (pace, speed) = (worlds as f64 / real * 60.0, time / real / threads as f64);
    println!(
        "{worlds} worlds in {real:.1} s ({pace:.0} a minute; on each of {threads} cores {speed:.0} times real time): \
         {requests} requests, {answers} answers, {faults} faults, {undecided} histories too large to be judged, \
         {lost} acknowledged writes lost by failovers"
    );
    broken
}

/// Prints a line; who has read enough (`| head`) ends it all.
fn say(line: &str) {
    if writeln!(io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

fn line(seed: u64, world: &World) -> String {
    let (seconds, digest) = (world.net.now as f64 / SECOND as f64, world.net.digest);
    let [requests, _, faults, _] = world.book.counts;
    let line = format!("seed {seed}  {seconds:7.1} s  {requests:5} requests  {faults:3} faults  digest {digest:016x}");
    match world.shape() {
        "single" => line,
        shape => format!("{line}  {shape}, {} lost", world.book.lost_acknowledged()),
    }
}
