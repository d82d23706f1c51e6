"""What every room uses: errors, findings, policies, quoting, files of one's own, locks."""
