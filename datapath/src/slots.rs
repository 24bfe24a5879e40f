//! A vector of slots whose handles tell when their slot has been given to another.

/// Names a value in a [`Slots`]; of no use once the value is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    index: u32,
    generation: u32,
}

impl Handle {
    /// Names nothing, ever: there are not so many slots.
    pub const NONE: Self = Self { index: u32::MAX, generation: 0 };

    /// The handle in one word: its index in the low 32 bits, its generation in the high.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.index as u64 | (self.generation as u64) << 32
    }

    /// The handle that [`to_bits`](Self::to_bits) made a word of. One of another word names nothing,
    /// or some other value.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in slots. Free slots are used again, so there are never more than values at the peak.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many slots there are, free ones among them.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Puts a value into a slot. The caller bounds how many.
    pub fn insert(&mut self, value: T) -> Handle {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Handle { index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Handle { index, generation: 0 }
    }

    /// Puts a value where a handle of other slots names it, or, where there is none any more, sees to it that
    /// the handle names nothing. `false` if there is such a slot already: indexes have to grow.
    pub fn restore(&mut self, handle: Handle, value: Option<T>) -> bool {
        if !self.reserve(handle) {
            return false;
        }
        match value {
            Some(value) => drop(self.fill(handle, value)),
            None => self.release(handle),
        }
        true
    }

    /// Keeps the slot of a handle of other slots for what [`Self::fill`] brings: it counts as used. `false` if
    /// there is such a slot already: indexes have to grow.
    pub fn reserve(&mut self, handle: Handle) -> bool {
        if (handle.index as usize) < self.slots.len() {
            return false;
        }
        let skipped = self.slots.len() as u32..handle.index;
        self.free.extend(skipped.clone());
        self.slots.extend(skipped.map(|_| Slot { generation: 0, value: None }));
        self.slots.push(Slot { generation: handle.generation, value: None });
        true
    }

    /// Puts a value into the slot that is reserved for this handle.
    pub fn fill(&mut self, reserved: Handle, value: T) -> Option<&mut T> {
        let slot = self.slots.get_mut(reserved.index as usize)?;
        (slot.generation == reserved.generation).then(|| slot.value.insert(value))
    }

    /// Nobody comes for a reserved slot: its handle names nothing, and others may have it.
    pub fn release(&mut self, reserved: Handle) {
        if let Some(slot) = self.slots.get_mut(reserved.index as usize)
            && slot.generation == reserved.generation
            && slot.value.is_none()
        {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(reserved.index);
        }
    }

    /// The value, unless it is gone.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<&T> {
        let slot = self.slots.get(handle.index as usize)?;
        if slot.generation == handle.generation { slot.value.as_ref() } else { None }
    }

    /// The value, unless it is gone.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        if slot.generation == handle.generation { slot.value.as_mut() } else { None }
    }

    /// Takes the value out, and makes its handles useless.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        if slot.generation != handle.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(value)
    }

    /// The value in a slot, by the slot's number, with its handle.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<(Handle, &T)> {
        let slot = self.slots.get(index)?;
        let handle = Handle { index: index as u32, generation: slot.generation };
        slot.value.as_ref().map(|value| (handle, value))
    }

    /// All values with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        (0..self.slots.len()).filter_map(|index| self.at(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_outlives_its_value_in_vain() {
        let mut slots = Slots::default();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!(slots.slots(), 1, "the slot is used again");
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&'b')));
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.count(), 1);
    }

    #[test]
    fn handles_of_other_slots_name_what_they_named() {
        let mut slots = Slots::default();
        let [live, gone] = [(1, 5), (3, 8)].map(|(index, generation)| Handle { index, generation });
        assert!(slots.restore(live, Some('a')) && slots.restore(gone, None));
        assert!(!slots.restore(live, Some('x')), "once");
        assert_eq!((slots.get(live), slots.get(gone), slots.count()), (Some(&'a'), None, 1));
        let new = ['b', 'c', 'd', 'e'].map(|value| slots.insert(value));
        assert_eq!(slots.slots(), 5, "free slots are used");
        assert!(!new.contains(&live) && !new.contains(&gone));
    }

    #[test]
    fn a_slot_is_kept_for_whoever_comes_with_its_handle() {
        let mut slots = Slots::default();
        let [wanted, left] =
            [(0, 5), (1, 8)].map(|(index, generation)| Handle { index, generation });
        assert!(slots.reserve(wanted) && slots.reserve(left) && !slots.reserve(left));
        let other = slots.insert('x');
        assert_eq!((slots.count(), slots.get(wanted), slots.get(left)), (3, None, None));
        assert!(slots.fill(wanted, 'a').is_some());
        slots.release(wanted);
        slots.release(left);
        assert_eq!((slots.get(wanted), slots.get(other)), (Some(&'a'), Some(&'x')));
        let new = slots.insert('b');
        assert_eq!((slots.count(), slots.get(left), slots.get(new)), (3, None, Some(&'b')));
        slots.release(left);
        assert_eq!(slots.get(new), Some(&'b'), "once");
    }

    #[test]
    fn a_handle_fits_a_word() {
        let handle = Handle { index: 2, generation: 3 };
        assert_eq!(handle.to_bits(), 0x0000_0003_0000_0002);
        assert_eq!(Handle::from_bits(handle.to_bits()), handle);
        assert_eq!(Handle::from_bits(Handle::NONE.to_bits()), Handle::NONE);
    }
}
