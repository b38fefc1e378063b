//! The words of texts, and the runs of words that rows share with an evaluation set (Brown et al. 2020, appendix C).
//!
//! A word is a run of letters and digits in lower case; an underscore between two of them joins them, so that a name
//! such as `social_i_qa_show_choices` is a single word. In scripts without spaces each letter is a word. So case,
//! punctuation, spaces and the template around a text do not count.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::interrupt::Supervisor;
use crate::parallel::thread_pool;
use crate::Result;

/// The words of a run.
pub const RUN: usize = 13;
/// A text of so many words, up to one less than a run, is a short text. It is looked for whole inside other texts.
pub const SHORT: usize = 8;
/// A run that more entries have is a template of the evaluation set, and says nothing of any entry.
pub const COMMON: usize = 10;
/// A run of fewer different words, such as a line of zeros, says nothing.
pub const DIFFERENT: usize = 4;

/// Whether a letter is a word by itself.
fn stands_alone(letter: char) -> bool {
    matches!(u32::from(letter),
        0x0E00..=0x0EFF   // Thai, Lao
        | 0x1000..=0x109F // Myanmar
        | 0x1780..=0x17FF // Khmer
        | 0x3040..=0x30FF // Hiragana, Katakana
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
    // Han
}

/// The words of a text: the hash of each, and its place in the bytes of the text.
#[derive(Default)]
struct Words {
    hashes: Vec<u64>,
    places: Vec<(usize, usize)>,
}

impl Words {
    fn of(text: &str) -> Words {
        let mut words = Words::default();
        let mut word = String::new();
        let mut begin = 0;
        let mut letters = text.char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            let joins = |next: char| next.is_alphanumeric() && !stands_alone(next);
            if letter == '_' && !word.is_empty() && letters.peek().is_some_and(|(_, next)| joins(*next)) {
                word.push(letter);
                continue;
            }
            let alone = stands_alone(letter);
            if !letter.is_alphanumeric() || alone {
                words.push(&mut word, begin, at);
            }
            if letter.is_alphanumeric() {
                if word.is_empty() {
                    begin = at;
                }
                word.extend(letter.to_lowercase());
                if alone {
                    words.push(&mut word, begin, at + letter.len_utf8());
                }
            }
        }
        words.push(&mut word, begin, text.len());
        words
    }

    fn push(&mut self, word: &mut String, begin: usize, end: usize) {
        if !word.is_empty() {
            self.hashes.push(xxh3_64(word.as_bytes()));
            self.places.push((begin, end));
            word.clear();
        }
    }
}

/// The hashes of runs, of short texts and of whole rows never meet.
const RUNS: u64 = 1;
const TEXTS: u64 = 2;
const ROWS: u64 = 3;

fn hash(words: &[u64], kind: u64) -> u64 {
    xxh3_64_with_seed(bytemuck::cast_slice(words), kind)
}

/// A run of words that a row shares with the set, or a short text of one that is inside a text of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The text of the row, and the first of the text's words.
    pub text: u32,
    pub start: u32,
    /// How many words; fewer than `RUN` are a short text of the row or of the entry.
    pub words: u8,
    /// The hash of the words, the same in every row.
    pub run: u64,
    /// The first entry that has them; none where more than `COMMON` entries do.
    pub entry: Option<u32>,
}

/// What a row shares with the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The hash of all words of the row.
    pub content: u64,
    /// The entry that has all words of the row, in order. Its runs are not told then.
    pub equal: Option<u32>,
    /// By text and place.
    pub runs: Vec<Run>,
}

/// The runs of words of an evaluation set, whose entries have one text or more.
pub struct SharedWords {
    /// The first entry that has each; none for those that more than `COMMON` entries have. Runs, short texts, and rows.
    first: HashMap<u64, Option<u32>>,
    /// The same of the words inside a text, as many as a short text has. They are shared with short texts of rows.
    inside: HashMap<u64, Option<u32>>,
    /// The first `SHORT` words of each short text: few places of a row's text begin with them.
    heads: HashSet<u64>,
    /// The runs and short texts that more than `COMMON` entries have.
    pub common: usize,
    /// The entries without a word.
    pub empty: usize,
}

impl SharedWords {
    pub fn new(entries: &[Vec<String>]) -> SharedWords {
        let (mut first, mut inside, mut counts) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut heads = HashSet::new();
        let mut empty = 0;
        for (number, texts) in entries.iter().enumerate() {
            let number = Some(number as u32);
            let mut own = Vec::new();
            let mut all = Vec::new();
            for text in texts {
                let words = Words::of(text).hashes;
                for run in runs_of(&words).filter(|run| says_something(run)) {
                    own.push(hash_of_run(run));
                    first.entry(hash_of_run(run)).or_insert(number);
                    if run.len() < RUN {
                        heads.insert(hash_of_run(&run[..SHORT]));
                    }
                }
                for part in parts_of(&words).filter(|part| says_something(part)) {
                    own.push(hash_of_run(part));
                    inside.entry(hash_of_run(part)).or_insert(number);
                }
                all.extend(words);
            }
            if all.is_empty() {
                empty += 1;
                continue;
            }
            first.entry(hash(&all, ROWS)).or_insert(number);
            own.sort_unstable();
            own.dedup();
            own.into_iter().for_each(|run| *counts.entry(run).or_insert(0usize) += 1);
        }
        let mut common = 0;
        for (run, _) in counts.into_iter().filter(|&(_, n)| n > COMMON) {
            common += usize::from(first.get_mut(&run).map(|entry| *entry = None).is_some());
            inside.entry(run).and_modify(|entry| *entry = None);
        }
        SharedWords { first, inside, heads, common, empty }
    }

    /// What each row shares with the set; none for a row that shares nothing.
    pub fn find(&self, rows: &[Vec<String>], n_threads: usize, supervisor: &Supervisor) -> Result<Vec<Option<Shared>>> {
        let find = |texts: &Vec<String>| {
            supervisor.check()?;
            Ok(self.of_row(texts))
        };
        thread_pool(n_threads)?.install(|| rows.par_iter().with_min_len(64).map(find).collect())
    }

    fn of_row(&self, texts: &[String]) -> Option<Shared> {
        let of_texts: Vec<Vec<u64>> = texts.iter().map(|text| Words::of(text).hashes).collect();
        let all = of_texts.concat();
        let content = hash(&all, ROWS);
        if let Some(&entry) = self.first.get(&content).filter(|_| !all.is_empty()) {
            return Some(Shared { content, equal: entry, runs: Vec::new() });
        }
        let mut runs = Vec::new();
        for (text, words) in of_texts.iter().enumerate() {
            let shared = self.of_text(words).into_iter();
            runs.extend(shared.map(|(start, words, entry)| {
                let run = hash_of_run(words);
                Run { text: text as u32, start: start as u32, words: words.len() as u8, run, entry }
            }));
        }
        (!runs.is_empty()).then_some(Shared { content, equal: None, runs })
    }

    /// The words that a row's text shares, with the place of the first and the entry: by place, then by length.
    fn of_text<'a>(&self, words: &'a [u64]) -> Vec<(usize, &'a [u64], Option<u32>)> {
        let mut shared = Vec::new();
        for start in 0..(words.len() + 1).saturating_sub(SHORT) {
            let rest = &words[start..];
            let is_short = start == 0 && rest.len() < RUN;
            if is_short || self.heads.contains(&hash_of_run(&rest[..SHORT])) {
                for some in (SHORT..RUN.min(rest.len() + 1)).map(|size| &rest[..size]) {
                    let run = hash_of_run(some);
                    let inside = || self.inside.get(&run).filter(|_| is_short && some.len() == words.len());
                    shared.extend(self.first.get(&run).or_else(inside).map(|&entry| (start, some, entry)));
                }
            }
            if let Some(run) = rest.get(..RUN) {
                shared.extend(self.first.get(&hash_of_run(run)).map(|&entry| (start, run, entry)));
            }
        }
        shared
    }
}

/// The runs of a text: of `RUN` words, or the whole text where it is short.
fn runs_of(words: &[u64]) -> impl Iterator<Item = &[u64]> {
    words.windows(words.len().clamp(SHORT, RUN))
}

/// What a text has inside it of the length of a short text, other than itself.
fn parts_of(words: &[u64]) -> impl Iterator<Item = &[u64]> {
    (SHORT..RUN.min(words.len().max(SHORT))).flat_map(|size| words.windows(size))
}

fn hash_of_run(words: &[u64]) -> u64 {
    hash(words, if words.len() == RUN { RUNS } else { TEXTS })
}

/// Some words of a text, as the text has them: `n` from the word `start` on, or as many as there are.
pub fn excerpt(text: &str, start: usize, n: usize) -> &str {
    let places = Words::of(text).places;
    match places.get(start..) {
        Some(places @ [first, ..]) if n > 0 => &text[first.0..places[n.min(places.len()) - 1].1],
        _ => "",
    }
}

fn says_something(words: &[u64]) -> bool {
    let mut different = words.to_vec();
    different.sort_unstable();
    different.dedup();
    different.len() >= DIFFERENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&[&str]]) -> Vec<Vec<String>> {
        texts.iter().map(|texts| texts.iter().map(|&text| text.to_owned()).collect()).collect()
    }

    fn of(entries: &[&[&str]], row: &[&str]) -> Option<Shared> {
        SharedWords::new(&rows(entries)).find(&rows(&[row]), 1, &Supervisor::none()).unwrap().remove(0)
    }

    /// The text, the first word and the number of words of each run that a row shares, and the entry.
    fn runs(entries: &[&[&str]], row: &[&str]) -> Vec<(u32, u32, u8, Option<u32>)> {
        of(entries, row).map_or(Vec::new(), |shared| {
            assert_eq!(shared.equal, None);
            shared.runs.iter().map(|run| (run.text, run.start, run.words, run.entry)).collect()
        })
    }

    const LONG: &str = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";

    #[test]
    fn a_run_of_thirteen_words_is_found_whatever_is_around_it() {
        let row = "Q: ONE, two;  three-four (five) six seven eight nine ten eleven twelve THIRTEEN! And so on.";
        assert_eq!(runs(&[&["other"], &[LONG]], &["before", row]), [(1, 1, 13, Some(1))]);
        assert_eq!(excerpt(row, 1, 13), "ONE, two;  three-four (five) six seven eight nine ten eleven twelve THIRTEEN");
        assert_eq!((excerpt(row, 14, 13), excerpt(row, 17, 13), excerpt(row, 0, 0)), ("And so on", "", ""));
        assert_eq!(runs(&[&[LONG]], &[&format!("{LONG} fifteen")]), [(0, 0, 13, Some(0)), (0, 1, 13, Some(0))]);
        // Twelve words of it are enough for a short text alone, and those of two texts are none.
        let twelve = "two three four five six seven eight nine ten eleven twelve thirteen";
        assert_eq!(of(&[&[LONG]], &[&format!("and so {twelve}")]), None);
        assert_eq!(runs(&[&[LONG]], &[twelve]), [(0, 0, 12, Some(0))]);
        assert_eq!(
            of(&[&[LONG]], &["one two three four five six", "seven eight nine ten eleven twelve thirteen"]),
            None
        );
    }

    #[test]
    fn short_texts_and_rows_are_compared_as_a_whole() {
        let short = "what is the capital of the french republic";
        assert_eq!(runs(&[&[short, "Paris"]], &["What is the capital of the French Republic?"]), [(0, 0, 8, Some(0))]);
        // Inside another text, whichever of the two has it as a whole; of longer ones, 13 words.
        let question = "Tell me: what is the capital of the French Republic?";
        assert_eq!(runs(&[&[short]], &[question]), [(0, 2, 8, Some(0))]);
        assert_eq!(runs(&[&[question]], &["Geography", short]), [(1, 0, 8, Some(0))]);
        let within = format!("{question} Or do you know that of Spain?");
        assert_eq!(runs(&[&[&within]], &[short]), [(0, 0, 8, Some(0))]);
        assert_eq!(of(&[&[&within]], &[&format!("{question} I do not know it myself, nor does he")]), None);
        assert_eq!(of(&[&[short]], &["what is the capital of the french"]), None);
        let equal = of(&[&["others"], &["two words"]], &["Two", "WORDS."]).unwrap();
        assert_eq!((equal.equal, equal.runs), (Some(1), vec![]));
        assert_eq!(of(&[&["two words"]], &["two words more"]), None);
        assert_eq!(of(&[&["!?"]], &["..."]), None);
    }

    #[test]
    fn a_name_with_underscores_is_a_single_word() {
        let name = "social_i_qa_Show_choices_and_generate_answer";
        assert_eq!(Words::of(name).hashes, [xxh3_64(name.to_lowercase().as_bytes())]);
        assert_eq!(of(&[&[name, "one"]], &[name, "two"]), None);
        // A gap to fill in joins nothing.
        assert_eq!(Words::of("the ___ sat on_ _the mat").hashes.len(), 5);
        // Nor does an underscore before a letter that is a word by itself.
        assert_eq!(Words::of("mat_猫").hashes, Words::of("mat 猫").hashes);
    }

    #[test]
    fn what_many_entries_share_is_told_without_an_entry_and_what_says_nothing_does_not_count() {
        let entries: Vec<Vec<String>> = (0..11).map(|i| vec![format!("{LONG} {i} a b c")]).collect();
        let set = SharedWords::new(&entries);
        assert_eq!(set.common, 2); // the runs without the number
        let find = |text: &str| set.find(&rows(&[&[text]]), 1, &Supervisor::none()).unwrap().remove(0).unwrap().runs;
        assert_eq!(find(LONG).iter().map(|run| run.entry).collect::<Vec<_>>(), [None, None]);
        let with_number: Vec<_> = find(&format!("{LONG} 7")).iter().map(|run| run.entry).collect();
        assert_eq!(with_number, [None, None, Some(7)]);
        assert_eq!(of(&[&["0 0 0 0 0 0 0 0 0 0 0 0 0 1"]], &["0 0 0 0 0 0 0 0 0 0 0 0 0 2"]), None);
    }

    #[test]
    fn each_letter_of_a_script_without_spaces_is_a_word() {
        let chinese = "今天天气很好我们一起去公园散步吧";
        let row = "翻译：今天天气很好，我们一起去公园散步。";
        let shared = runs(&[&[chinese]], &[row]);
        assert_eq!((shared.len(), shared[0]), (3, (0, 2, 13, Some(0))));
        assert_eq!(excerpt(row, 2, 13), "今天天气很好，我们一起去公园");
    }
}
