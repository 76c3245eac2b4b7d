//! A certificate with its key as bytes, to outlive this process in memory. Never written to a disk.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificate::MOST_CERTIFICATES;
use super::{Certificate, MaterialError, ParseSpiffeIdError, SpiffeId};

/// Names the form and its version; what begins otherwise is not read.
const MARK: &[u8; 8] = b"isthmus1";
/// Most bytes of one certificate with everything that belongs to it.
pub const LARGEST_KEPT: usize = 64 * 1024;

/// Why bytes are no certificate that can be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Of another version, cut off, or something else altogether.
    #[error("a kept certificate is not of a form this version reads")]
    Form,
    /// Its owner is not one.
    #[error("a kept certificate is of nobody")]
    Owner(#[from] ParseSpiffeIdError),
    /// Its parts do not fit together.
    #[error("a kept certificate cannot be used")]
    Material(#[from] MaterialError),
}

/// The mark, then parts with their lengths before them: owner, key, the chain as a count and its parts, the roots
/// likewise. Nothing when it is larger than [`LARGEST_KEPT`], or the key is of a form no CA of ours gives.
pub(super) fn encode(certificate: &Certificate) -> Option<Vec<u8>> {
    let PrivateKeyDer::Pkcs8(key) = certificate.key() else {
        return None;
    };
    let mut bytes = MARK.to_vec();
    part(&mut bytes, certificate.id().as_str().as_bytes())?;
    part(&mut bytes, key.secret_pkcs8_der())?;
    for list in [certificate.chain(), certificate.roots()] {
        bytes.extend(u32::try_from(list.len()).ok()?.to_le_bytes());
        for der in list {
            part(&mut bytes, der)?;
        }
    }
    (bytes.len() <= LARGEST_KEPT).then_some(bytes)
}

/// What [`encode`] made.
pub(super) fn decode(bytes: &[u8]) -> Result<Certificate, KeptError> {
    let mut rest = bytes.strip_prefix(MARK).ok_or(KeptError::Form)?;
    let owner = taken(&mut rest)?;
    let id: SpiffeId = std::str::from_utf8(owner).map_err(|_| KeptError::Form)?.parse()?;
    let key = PrivatePkcs8KeyDer::from(taken(&mut rest)?.to_vec());
    let chain = list(&mut rest)?;
    let roots = list(&mut rest)?;
    if !rest.is_empty() {
        return Err(KeptError::Form);
    }
    Ok(Certificate::new(id, chain, key.into(), &roots)?)
}

fn part(bytes: &mut Vec<u8>, part: &[u8]) -> Option<()> {
    bytes.extend(u32::try_from(part.len()).ok()?.to_le_bytes());
    bytes.extend(part);
    Some(())
}

fn number(rest: &mut &[u8]) -> Result<usize, KeptError> {
    let (number, after) = rest.split_first_chunk().ok_or(KeptError::Form)?;
    *rest = after;
    usize::try_from(u32::from_le_bytes(*number)).map_err(|_| KeptError::Form)
}

fn taken<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], KeptError> {
    let length = number(rest)?;
    let (part, after) = rest.split_at_checked(length).ok_or(KeptError::Form)?;
    *rest = after;
    Ok(part)
}

fn list(rest: &mut &[u8]) -> Result<Vec<CertificateDer<'static>>, KeptError> {
    let count = number(rest)?;
    if count > MOST_CERTIFICATES {
        return Err(KeptError::Form);
    }
    (0..count).map(|_| Ok(taken(rest)?.to_vec().into())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::identity::embedded_ca::{EmbeddedCa, Terms};

    fn made() -> Certificate {
        let ca = EmbeddedCa::throwaway();
        let web = SpiffeId::new("cluster.local", "demo", "web").unwrap();
        let pem = ca.issue_pem(&web, Terms::day_from(SystemTime::now())).unwrap();
        Certificate::from_pem(web, &pem).unwrap()
    }

    #[test]
    fn what_is_kept_comes_back_whole() {
        let before = made();
        let after = decode(&encode(&before).unwrap()).unwrap();
        assert_eq!(
            (after.id(), after.serial(), after.chain(), after.roots(), after.key()),
            (
                before.id(),
                before.serial(),
                before.chain(),
                before.roots(),
                before.key()
            )
        );
        assert_eq!(after.not_after(), before.not_after());
    }

    #[test]
    fn what_is_cut_off_longer_or_altered_is_refused_without_a_panic() {
        let bytes = encode(&made()).unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(matches!(decode(&[&bytes[..], &[0]].concat()), Err(KeptError::Form)));
        for at in 0..MARK.len() + 8 {
            let mut altered = bytes.clone();
            altered[at] ^= 0x80;
            assert!(decode(&altered).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_count_is_believed_within_bounds_only() {
        let mut bytes = MARK.to_vec();
        part(&mut bytes, b"spiffe://cluster.local/ns/demo/sa/web").unwrap();
        part(&mut bytes, b"key").unwrap();
        bytes.extend(u32::MAX.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(KeptError::Form)));
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let small = made();
        let many = vec![small.roots()[0].clone(); 60];
        let large = |times: usize| {
            let roots = &many[..times];
            Certificate::new(
                small.id().clone(),
                small.chain().to_vec(),
                small.key().clone_key(),
                roots,
            )
            .unwrap()
        };
        assert!(encode(&large(60)).is_some());
        let mut roots = many.clone();
        while roots.iter().map(|root| root.len()).sum::<usize>() <= LARGEST_KEPT {
            roots.extend(many.clone());
        }
        let larger = Certificate::new(
            small.id().clone(),
            small.chain().to_vec(),
            small.key().clone_key(),
            &roots,
        );
        assert!(encode(&larger.unwrap()).is_none());
    }
}
