//! Planes that live in this very process: enrolled without a token or a network.

use culvert_certs::{
    Credentials, LEAF_LIFETIME, PlaneIdentity, ReplicaId,
    name::{Region, Zone},
};

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    resource::{Document, ResourceKind, Timestamp},
    store::Expected,
};

/// A plane of this process.
#[derive(Debug, Clone)]
pub struct LocalPlane {
    /// Its label.
    pub region: Region,
    /// Its name.
    pub zone: Zone,
    /// DNS names and addresses that its edge answers to.
    pub hosts: Vec<String>,
}

impl Control {
    /// Credentials for a new replica of a plane in this process, whose document is written if
    /// there is none. They live as long as any leaf: ask again before they end.
    ///
    /// # Errors
    /// Where the store fails or a host cannot stand in a certificate.
    pub async fn enroll_plane(&self, plane: &LocalPlane) -> Result<Credentials, ControlError> {
        self.ensure_plane(plane).await?;
        let identity = PlaneIdentity {
            trust_domain: self.trust_domain().clone(),
            region: plane.region.clone(),
            zone: plane.zone.clone(),
            replica: ReplicaId::random(),
        };
        self.credentials_of(identity, &plane.hosts).await
    }

    /// Fresh credentials for a replica that this process enrolled before, under the same identity.
    ///
    /// # Errors
    /// As [`Control::enroll_plane`].
    pub async fn renew_plane_here(
        &self,
        replica: &PlaneIdentity,
        hosts: &[String],
    ) -> Result<Credentials, ControlError> {
        self.credentials_of(replica.clone(), hosts).await
    }

    async fn credentials_of(
        &self,
        identity: PlaneIdentity,
        hosts: &[String],
    ) -> Result<Credentials, ControlError> {
        let subject = Subject::new(None, "plane", &identity.zone);
        let (authority, now) = (self.inner.records.authority(), self.now());
        let credentials = authority.enroll(&identity.into(), hosts, LEAF_LIFETIME, now)?;
        self.done(&Actor::control(), "plane.enroll", subject).await;
        Ok(credentials)
    }

    async fn ensure_plane(&self, plane: &LocalPlane) -> Result<(), ControlError> {
        let name = plane.zone.as_str();
        if self.find(ResourceKind::Plane, None, name).await?.is_some() {
            return Ok(());
        }
        let mut document = Document::new(ResourceKind::Plane, None, name)?;
        let region = plane.region.as_str();
        document.spec.insert("region".to_owned(), region.into());
        document.set_status("created", Timestamp::from(self.now()));
        match self.save(&document, Expected::Absent).await {
            Ok(_) | Err(ControlError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
