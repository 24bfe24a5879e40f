//! The queue of events: a timing wheel, exact to the microsecond.
//!
//! ```text
//!  past │ current slot      │ the wheel: one unsorted list per slot     │ far: an ordered map
//!       │ sorted, + a heap  │ 128 µs each, 32,768 of them (4.2 s ahead)  │
//!       │ for what is new   │ a bitmap says which are occupied           │
//! ```
//! Events come out by time, and at one time in the order in which they went in: a run depends on
//! nothing else. Pushing is an append; a slot is sorted once, when its time has come. What lies
//! beyond the wheel moves onto it as time goes on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use pias_protocol::time::Time;

/// A slot is `2^SLOT_BITS` microseconds wide.
const SLOT_BITS: u32 = 7;
/// Slots of the wheel; a power of two.
const SLOTS: usize = 1 << 15;
const WORDS: usize = SLOTS / 64;

/// An event and its place in the order.
#[derive(Debug)]
struct Entry<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> Entry<E> {
    const fn key(&self) -> (u64, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Events in the order of their times.
#[derive(Debug)]
pub struct Queue<E> {
    /// The number of the slot whose events are in `current`.
    slot: u64,
    /// In falling order: the next one is the last.
    current: Vec<Entry<E>>,
    /// What was pushed for the current slot (or before) after it was sorted.
    fresh: BinaryHeap<Reverse<Entry<E>>>,
    wheel: Vec<Vec<Entry<E>>>,
    occupied: Vec<u64>,
    far: BTreeMap<(u64, u64), E>,
    pushed: u64,
    len: usize,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            slot: 0,
            current: Vec::new(),
            fresh: BinaryHeap::new(),
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: vec![0; WORDS],
            far: BTreeMap::new(),
            pushed: 0,
            len: 0,
        }
    }
}

impl<E> Queue<E> {
    /// How many events wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an event in. One for a time that has passed comes out next.
    pub fn push(&mut self, at: Time, event: E) {
        let at = at.as_micros();
        self.pushed += 1;
        self.len += 1;
        let entry = Entry { at, number: self.pushed, event };
        let slot = at >> SLOT_BITS;
        if slot <= self.slot {
            self.fresh.push(Reverse(entry));
        } else if slot - self.slot < SLOTS as u64 {
            self.place(slot, entry);
        } else {
            self.far.insert(entry.key(), entry.event);
        }
    }

    /// Takes the next event out, unless it is later than `end`.
    pub fn pop(&mut self, end: Time) -> Option<(Time, E)> {
        let end = end.as_micros();
        while self.current.is_empty() && self.fresh.is_empty() {
            if !self.advance(end) {
                return None;
            }
        }
        let from_fresh = match (self.current.last(), self.fresh.peek()) {
            (Some(sorted), Some(Reverse(fresh))) => fresh < sorted,
            (None, _) => true,
            (Some(_), None) => false,
        };
        let next = if from_fresh {
            self.fresh.peek().map(|Reverse(entry)| entry.at)
        } else {
            self.current.last().map(|entry| entry.at)
        };
        if next? > end {
            return None;
        }
        let entry = if from_fresh { self.fresh.pop()?.0 } else { self.current.pop()? };
        self.len -= 1;
        Some((Time::from_micros(entry.at), entry.event))
    }

    fn place(&mut self, slot: u64, entry: Entry<E>) {
        let index = slot as usize % SLOTS;
        self.occupied[index / 64] |= 1 << (index % 64);
        self.wheel[index].push(entry);
    }

    /// On to the next slot with an event, if that is not after `end`.
    fn advance(&mut self, end: u64) -> bool {
        let far = self.far.first_key_value().map(|(&(at, _), _)| at >> SLOT_BITS);
        // What is on the wheel is earlier than what is far.
        let Some(next) = self.next_occupied().or(far) else { return false };
        if next > end >> SLOT_BITS {
            return false;
        }
        self.slot = next;
        let horizon = (next + SLOTS as u64) << SLOT_BITS;
        while let Some(first) = self.far.first_entry() {
            let (at, number) = *first.key();
            if at >= horizon {
                break;
            }
            let event = first.remove();
            self.place(at >> SLOT_BITS, Entry { at, number, event });
        }
        let index = next as usize % SLOTS;
        self.occupied[index / 64] &= !(1 << (index % 64));
        std::mem::swap(&mut self.current, &mut self.wheel[index]);
        self.current.sort_unstable_by_key(|entry| Reverse(entry.key()));
        true
    }

    /// The next slot on the wheel that holds an event, after the current one.
    fn next_occupied(&self) -> Option<u64> {
        let start = (self.slot as usize + 1) % SLOTS;
        let (word, bit) = (start / 64, start % 64);
        let first = self.occupied[word] & (u64::MAX << bit);
        let found = if first != 0 {
            Some(word * 64 + first.trailing_zeros() as usize)
        } else {
            // The last round looks at the bits of the first word that lie before the start.
            (1..=WORDS).map(|n| (word + n) % WORDS).find_map(|word| {
                let bits = self.occupied[word];
                (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
            })
        };
        found.map(|index| {
            let ahead = (index + SLOTS - start) % SLOTS;
            self.slot + 1 + ahead as u64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    const NEVER: Time = Time::from_micros(u64::MAX);

    #[test]
    fn events_come_out_as_they_would_of_an_ordered_map() {
        let mut draws = Draws::new(7, 0);
        let mut queue = Queue::default();
        let mut model = BTreeMap::new();
        let (mut now, mut number) = (0, 0_u64);
        for _ in 0..200_000 {
            let spread = [1, 50, 5_000, 1_000_000, 60_000_000][draws.below(5)];
            if draws.below(2) == 0 || model.is_empty() {
                number += 1;
                let at = now + draws.below(spread) as u64;
                queue.push(Time::from_micros(at), number);
                model.insert((at, number), ());
            } else {
                let ((at, number), ()) = model.pop_first().unwrap();
                assert_eq!(queue.pop(NEVER), Some((Time::from_micros(at), number)));
                now = at;
            }
            assert_eq!(queue.len(), model.len());
        }
    }

    #[test]
    fn nothing_comes_out_before_its_time() {
        let mut queue = Queue::default();
        queue.push(Time::from_micros(10_000_000), 'a');
        queue.push(Time::from_micros(130), 'b');
        queue.push(Time::from_micros(150), 'c');
        assert_eq!(queue.pop(Time::from_micros(129)), None);
        assert_eq!(queue.pop(Time::from_micros(140)), Some((Time::from_micros(130), 'b')));
        assert_eq!(queue.pop(Time::from_micros(140)), None);
        queue.push(Time::from_micros(145), 'd');
        assert_eq!(queue.pop(NEVER), Some((Time::from_micros(145), 'd')));
        assert_eq!(queue.pop(NEVER), Some((Time::from_micros(150), 'c')));
        assert_eq!(queue.pop(Time::from_micros(9_999_999)), None);
        assert_eq!(queue.pop(NEVER), Some((Time::from_micros(10_000_000), 'a')));
        assert!(queue.is_empty());
    }
}
