//! Protocol buffers, as much as gVisor's trace messages need: fields by number, the rest passed over.
//! What they hold is the agent's choice, and the Sentry that encodes them may be its, too: nothing here trusts a length.

/// A field's value; the fixed-width kinds are passed over.
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of one message, in order; `None` ends it early where it is malformed.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            let (field, kind) = (key >> 3, key & 7);
            match kind {
                0 => return Some((field, Value::Number(self.varint()?))),
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    return Some((field, Value::Bytes(self.take(length)?)));
                }
                1 => self.take(8).map(drop)?,
                5 => self.take(4).map(drop)?,
                _ => return None,
            }
        }
    }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The bytes of a field.
pub fn field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    Fields(message).find_map(|(field, value)| match value {
        Value::Bytes(bytes) if field == wanted => Some(bytes),
        _ => None,
    })
}

/// The same, empty when it is not there.
pub fn bytes(message: &[u8], wanted: u64) -> &[u8] {
    field(message, wanted).unwrap_or_default()
}

/// A number, 0 when it is not there (proto3 leaves zeros out).
pub fn number(message: &[u8], wanted: u64) -> u64 {
    let found = Fields(message).find_map(|(field, value)| match value {
        Value::Number(number) if field == wanted => Some(number),
        _ => None,
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_and_passes_over_what_it_does_not_know() {
        let message =
            [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21, 0, 0, 0, 0, 0, 0, 0, 0, 0x28, 7];
        assert_eq!(number(&message, 1), 150);
        assert_eq!(bytes(&message, 2), b"hi");
        assert_eq!(number(&message, 5), 7);
        assert_eq!(number(&message, 9), 0);
    }

    #[test]
    fn ends_where_a_message_lies_about_its_length() {
        for broken in [
            &[0x12, 200, b'x'][..],
            &[0x80; 11],
            &[0x0b],
            &[0x09, 1],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(Fields(broken).count(), 0);
        }
    }
}
