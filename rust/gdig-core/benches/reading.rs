//! How to feed the k-means kernels from a disk: ways to read files that are not in memory. Two threads look for the
//! nearest of 512 centroids of 512 columns in what they read as float16 rows.
//!
//!     cargo bench -p gdig-core --bench reading -- [--repeats 3] FILE...
//!
//! Before each run the files are dropped from the page cache. The ways take turns; medians are printed, with CPU time.
//! "idle kernel" at the top of the table: direct reads without any computing, the disk's own rate.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use gdig_core::convert::Rows;
use gdig_core::simd::Kernel;
use gdig_core::simd::{Assigner, Scratch};
use gdig_core::Dtype;
use memmap2::{Advice, Mmap};

const DIM: usize = 512;
const K: usize = 512;
const ROW: usize = 2 * DIM;
const THREADS: usize = 2;
/// Bytes that are read, or asked for, at once.
const WINDOW: usize = 8 << 20;
/// Windows ahead of the workers.
const DEPTH: usize = 8;
const WAYS: [&str; 9] = [
    "idle kernel",
    "mmap",
    "mmap, sequential",
    "mmap, willneed ahead",
    "mmap, populate ahead",
    "pread",
    "pread ahead",
    "direct",
    "direct ring",
];

/// A window of one file.
#[derive(Clone, Copy)]
struct Window {
    file: usize,
    start: usize,
    len: usize,
}

struct Bench {
    files: Vec<(File, File, Mmap)>,
    windows: Vec<Window>,
    assigner: Assigner,
    next: AtomicUsize,
}

/// A count that threads wait for.
#[derive(Default)]
struct Gate(Mutex<usize>, Condvar);

impl Gate {
    fn add(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    fn wait(&self, least: usize) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |count| *count < least).unwrap());
    }
}

impl Bench {
    fn open(paths: &[String]) -> Bench {
        let open = |path: &String| {
            let file = File::open(path).unwrap();
            let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
            // SAFETY: nobody changes the files.
            let map = unsafe { Mmap::map(&file) }.unwrap();
            (file, direct, map)
        };
        let files: Vec<_> = paths.iter().map(open).collect();
        let cut = |(file, (_, _, map)): (usize, &(File, File, Mmap))| {
            let whole = map.len() / WINDOW * WINDOW;
            (0..whole).step_by(WINDOW).map(move |start| Window { file, start, len: WINDOW }).collect::<Vec<_>>()
        };
        let windows = files.iter().enumerate().flat_map(cut).collect();
        let centroids: Vec<f32> = (0..K * DIM).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let kernel = Kernel::detect(Dtype::F16, Dtype::F16, DIM);
        let assigner = Assigner::new(kernel, &centroids, DIM, Dtype::F16).unwrap();
        Bench { files, windows, assigner, next: AtomicUsize::new(0) }
    }

    fn mapped(&self, window: Window) -> &[u8] {
        &self.files[window.file].2[window.start..window.start + window.len]
    }

    fn next(&self) -> Option<(usize, Window)> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        Some((i, *self.windows.get(i)?))
    }

    fn compute(&self, bytes: &[u8], scratch: &mut Scratch) {
        let mut labels = vec![0u32; self.assigner.block_rows()];
        let size = self.assigner.block_rows() * ROW;
        for (i, block) in bytes.chunks(size).enumerate() {
            let rows = Rows::new(Dtype::F16, DIM, block, &[]).unwrap();
            let ahead = bytes.chunks(size).nth(i + 1).unwrap_or_default();
            self.assigner.assign(rows, ahead, &mut labels[..rows.len()], scratch);
        }
    }

    fn run(&self, way: &str) {
        self.next.store(0, Ordering::Relaxed);
        for (file, _, map) in &self.files {
            // SAFETY: advice about a file that is open. The mapping must not hold its pages.
            unsafe {
                libc::madvise(map.as_ptr() as *mut _, map.len(), libc::MADV_DONTNEED);
                libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
            }
            map.advise(if way == "mmap, sequential" { Advice::Sequential } else { Advice::Normal }).unwrap();
        }
        match way {
            "mmap" | "mmap, sequential" => self.in_place(None),
            "mmap, willneed ahead" => self.in_place(Some(&|w| advise(self.mapped(w), libc::MADV_WILLNEED))),
            "mmap, populate ahead" => self.in_place(Some(&|w| advise(self.mapped(w), libc::MADV_POPULATE_READ))),
            "pread ahead" => {
                let buffer = Mutex::new(vec![0u8; 1 << 20]);
                self.in_place(Some(&|w| {
                    let mut buffer = buffer.lock().unwrap();
                    (0..w.len).step_by(1 << 20).for_each(|at| read(&self.files[w.file].0, &mut buffer, w.start + at));
                }));
            }
            "pread" => self.copied(false, true),
            "direct" => self.copied(true, true),
            "idle kernel" => self.copied(true, false),
            _ => self.ring(),
        }
    }

    /// Workers compute in the mapping; with `fetch` a thread of its own is `DEPTH` windows ahead of them.
    fn in_place(&self, fetch: Option<&(dyn Fn(Window) + Sync)>) {
        let (fetched, done) = (Gate::default(), Gate::default());
        std::thread::scope(|scope| {
            if let Some(fetch) = fetch {
                scope.spawn(|| {
                    for (i, &window) in self.windows.iter().enumerate() {
                        done.wait((i + 1).saturating_sub(DEPTH));
                        fetch(window);
                        fetched.add();
                    }
                });
            }
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut scratch = Scratch::default();
                    while let Some((i, window)) = self.next() {
                        if fetch.is_some() {
                            fetched.wait(i + 1);
                        }
                        self.compute(self.mapped(window), &mut scratch);
                        done.add();
                    }
                });
            }
        });
    }

    /// Each worker reads into a buffer of its own.
    fn copied(&self, direct: bool, compute: bool) {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let (mut buffer, mut scratch) = (vec![0u8; WINDOW + 4096], Scratch::default());
                    let aligned = buffer.as_ptr().align_offset(4096);
                    let buffer = &mut buffer[aligned..][..WINDOW];
                    while let Some((_, window)) = self.next() {
                        let (file, direct_file, _) = &self.files[window.file];
                        read(if direct { direct_file } else { file }, buffer, window.start);
                        if compute {
                            self.compute(buffer, &mut scratch);
                        }
                    }
                });
            }
        });
    }

    /// Two threads read directly into buffers that go round.
    fn ring(&self) {
        let (free, empty) = channel();
        let (full, filled) = sync_channel::<Vec<u8>>(DEPTH);
        (0..DEPTH).for_each(|_| free.send(vec![0u8; WINDOW + 4096]).unwrap());
        let (empty, filled) = (Mutex::new(empty), Mutex::new(filled));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (full, empty) = (full.clone(), &empty);
                scope.spawn(move || {
                    while let Some((_, window)) = self.next() {
                        let mut buffer: Vec<u8> = empty.lock().unwrap().recv().unwrap();
                        let aligned = buffer.as_ptr().align_offset(4096);
                        read(&self.files[window.file].1, &mut buffer[aligned..][..WINDOW], window.start);
                        full.send(buffer).unwrap();
                    }
                });
            }
            drop(full);
            for _ in 0..THREADS {
                let (free, filled) = (free.clone(), &filled);
                scope.spawn(move || {
                    let mut scratch = Scratch::default();
                    loop {
                        let Ok(buffer) = filled.lock().unwrap().recv() else { return };
                        let aligned = buffer.as_ptr().align_offset(4096);
                        self.compute(&buffer[aligned..][..WINDOW], &mut scratch);
                        // At the end nobody wants it.
                        let _ = free.send(buffer);
                    }
                });
            }
        });
    }
}

fn advise(bytes: &[u8], advice: i32) {
    // SAFETY: windows begin at whole pages of a mapping that is alive.
    assert_eq!(unsafe { libc::madvise(bytes.as_ptr() as *mut _, bytes.len(), advice) }, 0);
}

fn read(file: &File, buffer: &mut [u8], at: usize) {
    let mut done = 0;
    while done < buffer.len() {
        done += file.read_at(&mut buffer[done..], (at + done) as u64).unwrap();
    }
}

fn cpu_seconds() -> f64 {
    // SAFETY: the struct is plain numbers, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime].iter().map(|t| t.tv_sec as f64 + t.tv_usec as f64 / 1e6).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut repeats = 3;
    if arguments.first().is_some_and(|argument| argument == "--repeats") {
        repeats = arguments[1].parse().expect("--repeats: a whole number");
        arguments.drain(..2);
    }
    if arguments.is_empty() {
        return println!("reading: no files given, nothing measured");
    }
    let bench = Bench::open(&arguments);
    let bytes = (bench.windows.len() * WINDOW) as f64;
    let mut times: Vec<Vec<(f64, f64)>> = vec![Vec::new(); WAYS.len()];
    for _ in 0..repeats {
        for (way, times) in WAYS.iter().zip(&mut times) {
            let (begin, cpu) = (Instant::now(), cpu_seconds());
            bench.run(way);
            times.push((begin.elapsed().as_secs_f64(), cpu_seconds() - cpu));
        }
    }
    println!("{:.1} GB, {THREADS} threads, medians of {repeats}", bytes / 1e9);
    for (way, times) in WAYS.iter().zip(times) {
        let (seconds, cpu): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        println!("  {way:22} {:6.2} GB/s   CPU {:5.2} s", bytes / median(seconds) / 1e9, median(cpu));
    }
}
