package main

import "github.com/spf13/cobra"

func quickstartCommand(u *ui) *cobra.Command { return &cobra.Command{Use: "quickstart PATH"} }
