//! The one DNS question that the lab asks, `whoami TXT`, and its answer. Pure.

/// Octets of a DNS message's header.
const HEADER: usize = 12;

/// `whoami. TXT IN`.
const QUESTION: &[u8] = b"\x06whoami\x00\x00\x10\x00\x01";

/// Octets between an answer's compressed name and its data: type, class, time
/// to live, length.
const FIXED: usize = 2 + 2 + 4 + 2;

/// The question in a message with this id.
pub(super) fn question(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion desired; one question, nothing else.
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(QUESTION);
    message
}

/// The server's name in an answer to [`question`] with this id.
pub(super) fn answer(message: &[u8], id: u16) -> Option<String> {
    let answered = message.get(..2)? == id.to_be_bytes()
        && message.get(2)? & 0x80 != 0
        && message.get(6..8)? == [0, 1];
    if !answered || message.get(HEADER..HEADER + QUESTION.len())? != QUESTION {
        return None;
    }
    // The answer's name is a pointer of two octets, as NSD writes it.
    let data = message.get(HEADER + QUESTION.len() + 2 + FIXED..)?;
    let (length, text) = data.split_first()?;
    Some(String::from_utf8_lossy(text.get(..usize::from(*length))?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(id: u16) -> Vec<u8> {
        let mut message = question(id);
        message[2] |= 0x84;
        message[7] = 1;
        message.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x07\x06fra-t1");
        message
    }

    #[test]
    fn an_answer_names_the_server() {
        assert_eq!(answer(&answered(7), 7).as_deref(), Some("fra-t1"));
    }

    #[test]
    fn another_id_a_question_and_every_cut_are_no_answer() {
        assert_eq!(answer(&answered(8), 7), None);
        assert_eq!(answer(&question(7), 7), None);
        let whole = answered(7);
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length], 7), None, "{length}");
        }
    }
}
