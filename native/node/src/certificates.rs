//! The session's certificate authority. Its key lives in the gate's memory only.

use napi::Result;
use napi_derive::napi;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;

use crate::failed;

/// Upper bound of a common name, X.520 ub-common-name.
const MAX_COMMON_NAME: usize = 64;

#[napi(object)]
pub struct CertificatePair {
    pub cert: String,
    pub key: String,
}

/// A self-signed P-256 authority that can issue leaves and nothing below them. Times are epoch seconds.
#[napi]
pub fn create_ca(name: String, not_before: i64, not_after: i64) -> Result<CertificatePair> {
    let mut params = params(&name, not_before, not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = generate_key()?;
    let cert = params.self_signed(&key).map_err(|e| failed("createCa", e))?;
    Ok(CertificatePair { cert: cert.pem(), key: key.serialize_pem() })
}

/// A P-256 server certificate for one DNS name or IP address. `host` is attacker-controlled, already canonical.
#[napi]
pub fn create_leaf(
    ca: CertificatePair,
    host: String,
    not_before: i64,
    not_after: i64,
) -> Result<CertificatePair> {
    let wrong = |e: rcgen::Error| failed("createLeaf", e);
    let ca_key = KeyPair::from_pem(&ca.key).map_err(wrong)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, ca_key).map_err(wrong)?;
    let mut params = params(&host, not_before, not_after)?;
    params.subject_alt_names = vec![alternative_name(&host)?];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    let key = generate_key()?;
    let cert = params.signed_by(&key, &issuer).map_err(wrong)?;
    Ok(CertificatePair { cert: cert.pem(), key: key.serialize_pem() })
}

fn generate_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| failed("key", e))
}

fn params(name: &str, not_before: i64, not_after: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let common_name = if name.len() <= MAX_COMMON_NAME { name } else { "Ambit" };
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = moment(not_before)?;
    params.not_after = moment(not_after)?;
    Ok(params)
}

/// X.509 times of this century; the bound also keeps the encoder away from years that it cannot write.
fn moment(seconds: i64) -> Result<OffsetDateTime> {
    let allowed = 0..4_102_444_800; // 1970 to 2100
    if !allowed.contains(&seconds) {
        return Err(failed("certificate", "time out of range"));
    }
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| failed("certificate", e))
}

fn alternative_name(host: &str) -> Result<SanType> {
    if let Ok(ip) = host.parse() {
        return Ok(SanType::IpAddress(ip));
    }
    if host.is_empty() || host.len() > 253 {
        return Err(failed("createLeaf", "host name length"));
    }
    let name = host.try_into().map_err(|e: rcgen::Error| failed("createLeaf", e))?;
    Ok(SanType::DnsName(name))
}
