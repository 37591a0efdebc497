//! How bytes stand in JSON: base64 for what is long, hexadecimal for digests and keys.

/// serde of bytes as padded standard base64.
pub(crate) mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&BASE64.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

/// serde of certificates as a list of base64 texts.
pub(crate) mod chain {
    use data_encoding::BASE64;
    use rustls::pki_types::CertificateDer;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(
        chain: &[CertificateDer<'static>],
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.collect_seq(chain.iter().map(|certificate| BASE64.encode(certificate)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<CertificateDer<'static>>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|text| BASE64.decode(text.as_bytes()).map(CertificateDer::from))
            .collect::<Result<_, _>>()
            .map_err(D::Error::custom)
    }
}

/// serde of 32 bytes as lower-case hexadecimal.
pub(crate) mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map_err(|_| D::Error::custom("32 bytes are expected"))
    }
}
