//! The words of texts, and the runs of words that rows share with an evaluation set (Brown et al. 2020, appendix C).
//!
//! A word is a run of letters and digits in lower case; an underscore between two of them joins them, so that a name
//! such as `social_i_qa_show_choices` is a single word. In scripts without spaces each letter is a word. So case,
//! punctuation, spaces and the template around a text do not count.

use std::collections::HashMap;

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::interrupt::Supervisor;
use crate::parallel::thread_pool;
use crate::Result;

/// The words of a run.
pub const RUN: usize = 13;
/// A text of so many words up to a run is compared as a whole.
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

/// What a row shares with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All words of both, in order.
    Equal,
    /// A run of words.
    Run,
    /// A whole text of `SHORT` words or more.
    Text,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Equal => "equal",
            Kind::Run => "words",
            Kind::Text => "text",
        }
    }
}

/// A row that shares words with an entry of the set: the number of the entry, and what they share as the row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    pub entry: u32,
    pub kind: Kind,
    pub words: String,
}

/// The runs of words of an evaluation set, whose entries have one text or more.
pub struct SharedWords {
    /// The first entry that has each.
    first: HashMap<u64, u32>,
    /// The runs that were left out, because more than `COMMON` entries have them.
    pub common: usize,
    /// The entries without a word.
    pub empty: usize,
}

impl SharedWords {
    pub fn new(entries: &[Vec<String>]) -> SharedWords {
        let (mut first, mut counts) = (HashMap::new(), HashMap::new());
        let mut empty = 0;
        for (number, texts) in entries.iter().enumerate() {
            let mut own = Vec::new();
            let mut all = Vec::new();
            for text in texts {
                let words = Words::of(text).hashes;
                if words.len() >= RUN {
                    own.extend(words.windows(RUN).filter(|run| says_something(run)).map(|run| hash(run, RUNS)));
                } else if words.len() >= SHORT && says_something(&words) {
                    own.push(hash(&words, TEXTS));
                }
                all.extend(words);
            }
            if all.is_empty() {
                empty += 1;
                continue;
            }
            first.entry(hash(&all, ROWS)).or_insert(number as u32);
            own.sort_unstable();
            own.dedup();
            for run in own {
                first.entry(run).or_insert(number as u32);
                *counts.entry(run).or_insert(0usize) += 1;
            }
        }
        let common: Vec<u64> = counts.into_iter().filter(|&(_, n)| n > COMMON).map(|(run, _)| run).collect();
        common.iter().for_each(|run| {
            first.remove(run);
        });
        SharedWords { first, common: common.len(), empty }
    }

    /// What each row shares with an entry: all words, else the first run, else the first text.
    pub fn find(&self, rows: &[Vec<String>], n_threads: usize, supervisor: &Supervisor) -> Result<Vec<Option<Shared>>> {
        let find = |texts: &Vec<String>| {
            supervisor.check()?;
            Ok(self.of_row(texts))
        };
        thread_pool(n_threads)?.install(|| rows.par_iter().with_min_len(64).map(find).collect())
    }

    fn of_row(&self, texts: &[String]) -> Option<Shared> {
        let of_texts: Vec<Words> = texts.iter().map(|text| Words::of(text)).collect();
        let all: Vec<u64> = of_texts.iter().flat_map(|words| words.hashes.iter().copied()).collect();
        if let Some(&entry) = self.first.get(&hash(&all, ROWS)).filter(|_| !all.is_empty()) {
            let (text, words) = texts.iter().zip(&of_texts).find(|(_, words)| !words.hashes.is_empty())?;
            let words = excerpt(text, words, 0, words.hashes.len().min(RUN));
            return Some(Shared { entry, kind: Kind::Equal, words });
        }
        for (text, words) in texts.iter().zip(&of_texts) {
            for (start, run) in words.hashes.windows(RUN).enumerate() {
                if let Some(&entry) = self.first.get(&hash(run, RUNS)) {
                    return Some(Shared { entry, kind: Kind::Run, words: excerpt(text, words, start, RUN) });
                }
            }
        }
        texts.iter().zip(&of_texts).find_map(|(text, words)| {
            let n = words.hashes.len();
            let entry = (SHORT..RUN).contains(&n).then(|| self.first.get(&hash(&words.hashes, TEXTS)))?;
            entry.map(|&entry| Shared { entry, kind: Kind::Text, words: excerpt(text, words, 0, n) })
        })
    }
}

fn says_something(words: &[u64]) -> bool {
    let mut different = words.to_vec();
    different.sort_unstable();
    different.dedup();
    different.len() >= DIFFERENT
}

/// Some words of a text, as the text has them.
fn excerpt(text: &str, words: &Words, start: usize, n: usize) -> String {
    text[words.places[start].0..words.places[start + n - 1].1].to_owned()
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

    const LONG: &str = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";

    #[test]
    fn a_run_of_thirteen_words_is_found_whatever_is_around_it() {
        let row = "Q: ONE, two;  three-four (five) six seven eight nine ten eleven twelve THIRTEEN! And so on.";
        let shared = of(&[&["other"], &[LONG]], &["before", row]).unwrap();
        assert_eq!((shared.entry, shared.kind), (1, Kind::Run));
        assert_eq!(shared.words, "ONE, two;  three-four (five) six seven eight nine ten eleven twelve THIRTEEN");
        // Twelve words of it are not enough, nor are those of two texts.
        assert_eq!(of(&[&[LONG]], &["two three four five six seven eight nine ten eleven twelve thirteen"]), None);
        assert_eq!(
            of(&[&[LONG]], &["one two three four five six", "seven eight nine ten eleven twelve thirteen"]),
            None
        );
    }

    #[test]
    fn short_texts_and_rows_are_compared_as_a_whole() {
        let short = "what is the capital of the french republic";
        assert_eq!(
            of(&[&[short, "Paris"]], &["What is the capital of the French Republic?"]).unwrap().kind,
            Kind::Text
        );
        assert_eq!(of(&[&[short]], &["tell me what is the capital of the french republic"]), None);
        assert_eq!(of(&[&["two words"]], &["Two WORDS."]).unwrap().kind, Kind::Equal);
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
    fn what_many_entries_share_and_what_says_nothing_does_not_count() {
        let entries: Vec<Vec<String>> = (0..11).map(|i| vec![format!("{LONG} {i} a b c")]).collect();
        let set = SharedWords::new(&entries);
        assert_eq!(set.common, 2); // the runs without the number
        let find = |text: &str| set.find(&rows(&[&[text]]), 1, &Supervisor::none()).unwrap().remove(0);
        assert_eq!(find(LONG), None);
        assert_eq!(find(&format!("{LONG} 7")).unwrap().entry, 7);
        assert_eq!(of(&[&["0 0 0 0 0 0 0 0 0 0 0 0 0 1"]], &["0 0 0 0 0 0 0 0 0 0 0 0 0 2"]), None);
    }

    #[test]
    fn each_letter_of_a_script_without_spaces_is_a_word() {
        let chinese = "今天天气很好我们一起去公园散步吧";
        let shared = of(&[&[chinese]], &["翻译：今天天气很好，我们一起去公园散步。"]).unwrap();
        assert_eq!((shared.kind, shared.words.as_str()), (Kind::Run, "今天天气很好，我们一起去公园"));
    }
}
